"""`dalle report`: everything of a run in one file that loads nothing."""

import html
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dalle_cli.storage.integrity.checksums import checksummed_json

LARGEST = 3 * 10**6  # bytes


@pytest.fixture
def page_of(tmp_path: Path, dalle: Callable) -> Callable[..., str]:
    def write(*runs: Path) -> str:
        ended = dalle("report", *runs, "--out", tmp_path / "report.html")
        assert (ended.code, ended.out) == (0, f"{tmp_path / 'report.html'}\n"), ended.err
        return (tmp_path / "report.html").read_text("utf-8")

    return write


def headings(page: str) -> list[str]:
    return [html.unescape(one) for one in re.findall("<h[123]>(.*?)</h", page)]


def test_page_of_a_transformer_has_curves_previews_masks_and_recipe(
    page_of: Callable, transformer_run: Path
) -> None:
    page = page_of(transformer_run)
    shown = headings(page)
    for expected in ("Curves", "Loss", "Nats per image token", "Learning rate", "Previews"):
        assert expected in shown
    assert "PSNR of reconstructions, dB" not in shown and "train/seconds" not in shown
    assert shown[-1] == "Recipe" and "training.steps" in page
    layers = page.partition("Attention of the layers")[2].partition("</section>")[0]
    drawn = re.findall("<figcaption>(.*?)</figcaption>", layers)
    assert drawn == ["1 row", "2 column", "3 row", "4 convolutional"]

    previews = len(list((transformer_run / "previews").glob("*.png")))
    assert page.count("data:image/webp") == previews
    assert page.count("data:image/png") == 3 + len(drawn)  # masks, and what layers attend to
    assert len(re.findall("<figure hidden>", page)) == previews - 1
    assert len(page.encode()) < LARGEST


def test_page_loads_nothing(page_of: Callable, dvae_run: Path, clip_run: Path) -> None:
    for run in (dvae_run, clip_run):
        page = page_of(run)
        assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
        assert "http://" not in page and "https://" not in page
        assert "PSNR" in page if run == dvae_run else "Retrieval" in page


def test_curves_of_several_runs_are_drawn_over_one_another(
    page_of: Callable, dvae_run: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(dvae_run, other)
    record = json.loads((other / "recipe.json").read_text())
    record["recipe"]["optimizer"]["weight_decay"] = 0.125
    (other / "recipe.json").write_text(json.dumps(record))

    page = page_of(dvae_run, other)
    chart = json.loads(html.unescape(re.findall('data-chart="(.*?)"', page)[0]))
    names = [dvae_run.name, "other"]
    assert chart["names"] == [f"{n}: {k}/loss" for n in names for k in ("train", "valid")]
    assert headings(page)[-1] == "Differences between the recipes"
    rows = re.findall("<tr>(.*?)</tr>", page.rpartition("<h2>")[2])
    assert len(rows) == 2 and "optimizer.weight_decay" in rows[1] and "0.125" in rows[1]


def test_best_and_worst_samples_are_those_of_the_newest_ranking(
    page_of: Callable, transformer_run: Path, clip_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    run = shutil.copytree(transformer_run, tmp_path / "run")
    shutil.rmtree(run / "samples", ignore_errors=True)
    words = ["a <ring>", "-n", 10, "--clip", clip_run, "--precision", "fp32"]
    assert dalle("generate", run, *words).code == 0
    assert dalle("generate", run, "a cross", "-n", 1, "--precision", "fp32").code == 0

    page = page_of(run)
    best, _, worst = page.partition("Worst by score")
    best = best.partition("Best by score")[2]
    assert best.count("<figure>") == 8 and "a &lt;ring&gt; (" in best
    assert worst.partition("</section>")[0].count("<figure>") == 2


def test_newest_evaluation_of_each_run_is_shown_side_by_side(
    page_of: Callable, dvae_run: Path, tmp_path: Path, dalle: Callable, make_pairs: Callable
) -> None:
    data = make_pairs(tmp_path / "data", 6)
    runs = [shutil.copytree(dvae_run, tmp_path / name) for name in ("first", "<second>")]
    assert "Evaluation" not in headings(page_of(*runs))
    for n_pairs in (6, 4):
        words = ["--data", data, "--pairs", n_pairs, "--device", "cpu"]
        assert dalle("evaluate", *runs, *words).code == 0

    page = page_of(*runs)
    section = page.partition("<h2>Evaluation</h2>")[2].partition("</section>")[0]
    assert "<th>first</th><th>&lt;second&gt;</th>" in section
    found = json.loads((runs[0] / "evaluations" / "001" / "evaluation.json").read_text())
    psnr = f"<td>{found['figures']['psnr']:.2f}</td>"
    assert f"<th>PSNR of reconstructions, dB</th>{psnr}{psnr}</tr>" in section
    assert "first: Measured on 4 pairs" in section


def test_run_that_has_just_begun_and_damaged_lines(
    page_of: Callable, dvae_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "new"
    run.mkdir()
    shutil.copy(dvae_run / "recipe.json", run)
    assert "No figures have been reported yet." in page_of(run)
    (run / "metrics.jsonl").write_text('{"step": 1, "train/loss": 2.5}\n{"step": 2, "tra')
    assert headings(page_of(run)).count("Loss") == 1


def test_recipe_shows_the_shipped_value_of_what_differs(
    page_of: Callable, transformer_run: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(transformer_run, tmp_path / "run")
    record = json.loads((run / "recipe.json").read_text())
    record["recipe"]["ema"]["decay"] = 0.125
    (run / "recipe.json").write_bytes(checksummed_json(record))
    row = page_of(run).partition("<th>ema.decay</th>")[2].partition("</tr>")[0]
    assert re.fullmatch(r'<td class="new">0.125<span class="was"> \(0.\d+\)</span></td>', row), row


def test_pictures_and_records_of_strangers_are_passed_over(
    page_of: Callable, transformer_run: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(transformer_run, tmp_path / "run")
    shutil.rmtree(run / "samples", ignore_errors=True)
    samples = run / "samples" / "000"
    samples.mkdir(parents=True)
    previews = sorted((run / "previews").glob("*.png"))
    shutil.copy(previews[0], tmp_path / "secret.png")
    shutil.copy(previews[0], samples / "0000.png")
    previews[0].write_bytes(previews[0].read_bytes()[:100])
    (run / "previews" / "step-x.png").write_bytes(b"no picture")

    sound = {"file": "0000.png", "caption": "sound", "score": 0.5, "ranked_by": "clip"}
    others = [
        *({**sound, "file": file} for file in ("../../../secret.png", "a\0b", "none.png", 3)),
        *({**sound, "score": score} for score in ("0.5", None, 10**400)),
    ]
    lines = [*map(json.dumps, [sound, *others, 7]), "[" * 10**5, '{"file": "0000.png", "sco']
    (samples / "manifest.jsonl").write_text("\n".join(lines))

    page = page_of(run)
    assert page.count("data:image/webp") == len(previews) - 1 + 1
    assert "step-x" not in page and "Worst by score" not in page


@pytest.mark.thorough
def test_pictures_of_many_runs_are_fewer(
    page_of: Callable, transformer_run: Path, tmp_path: Path
) -> None:
    runs = [shutil.copytree(transformer_run, tmp_path / f"run-{i}") for i in range(12)]
    for run in runs:
        preview = next((run / "previews").glob("*.png"))
        for step in range(100, 120):
            shutil.copy(preview, run / "previews" / f"step-{step:08d}.png")
    page = page_of(*runs)
    assert page.count("data:image/webp") == 2 * len(runs) and len(page.encode()) < LARGEST


def test_default_file_lies_in_the_run(dvae_run: Path, tmp_path: Path, dalle: Callable) -> None:
    run = shutil.copytree(dvae_run, tmp_path / "runs" / "run")
    assert dalle("report", run).out == f"{run / 'report.html'}\n"
    assert dalle("report", run.parent).out == f"{run.parent / 'report.html'}\n"


def test_what_is_no_run_is_refused(tmp_path: Path, dalle: Callable) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nothing"):
        ended = dalle("report", path)
        assert ended.code == 2 and "error:" in ended.err, ended.err
        assert "Traceback" not in ended.err
