"""The command line end to end: what each command prints, where, and what it leaves on disk."""

import io
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from dalle_cli.data.images import to_tensor
from dalle_cli.loading import load_dvae
from dalle_cli.metrics import code_counts, perplexity

TINY = ["--set", "training.steps=1", "--set", "runtime.workers=0"]


def result_of(ended: Any) -> Any:
    """Read the one JSON document that a command has printed, and nothing else."""
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


@pytest.mark.thorough
def test_from_nothing_to_pictures(tmp_path: Path, dalle: Callable) -> None:
    data, dvae, run = tmp_path / "data", tmp_path / "dvae", tmp_path / "run"

    shapes = dalle("data", "shapes", data, "--pictures", 12)
    assert (shapes.code, shapes.out) == (0, f"{data / 'train'}\n")
    assert (
        len(list((data / "train").glob("*.png"))) == len(list((data / "train").glob("*.txt"))) == 12
    )
    checked = dalle("data", "check", data / "train")
    assert checked.code == 0 and "12 usable" in checked.out

    trained = dalle("train-dvae", "dvae/tiny", "--data", data / "train", "--run", dvae, *TINY)
    assert (trained.code, trained.out) == (0, f"{dvae}\n")
    assert f"writing {dvae}" in trained.err and "next: dalle train-transformer" in trained.err

    words = ["--data", data / "train", "--dvae", dvae, "--run", run]
    trained = dalle("train-transformer", "transformer/tiny", *words, *TINY)
    assert (trained.code, trained.out) == (0, f"{run}\n")
    assert f"next: dalle generate {run}" in trained.err

    drawn = dalle("generate", run, "--prompts", data / "unseen.txt", "-n", 1)
    assert drawn.code == 0
    prompts = (data / "unseen.txt").read_text().splitlines()
    assert len(list(Path(drawn.out.strip()).glob("0*.png"))) == len(prompts) > 0


def test_same_seed_draws_the_same_scenes(tmp_path: Path, dalle: Callable, tree: Callable) -> None:
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        assert dalle("data", "shapes", tmp_path / name, "--pictures", 4, "--seed", seed).code == 0
    one, same, other = (tree(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same and one["train/00000.png"] != other["train/00000.png"]


def test_run_folder_is_as_designed(transformer_run: Path) -> None:
    assert {path.name for path in transformer_run.iterdir()} == {
        "recipe.json", "model", "tokenizer", "dvae", "checkpoints", "metrics.jsonl", "previews",
    }  # fmt: skip
    for folder in ("model", "dvae"):
        assert {path.name for path in (transformer_run / folder).iterdir()} == {
            "config.json",
            "model.safetensors",
        }

    record = json.loads((transformer_run / "recipe.json").read_text())
    assert record["recipe"]["kind"] == "transformer" and record["resolved"]["precision"] == "fp32"

    with Image.open(transformer_run / "previews" / "step-00000011.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.thorough
def test_json_is_all_there_is_on_stdout(
    tmp_path: Path,
    pairs: Path,
    dvae_run: Path,
    transformer_run: Path,
    clip_run: Path,
    dalle: Callable,
) -> None:
    run = tmp_path / "run"
    train = ["train-dvae", "dvae/tiny", "--data", pairs, "--run", run, *TINY]

    for words, key in [
        (["data", "shapes", tmp_path / "shapes", "--pictures", 2], "train"),
        (["data", "check", pairs], "samples"),
        (train, "run"),
        ([*train[:-4], "--set", "training.steps=1"], "run"),
        (["train-clip", "clip/tiny", "--data", pairs, "--run", tmp_path / "clip", *TINY], "run"),
        (
            ["generate", transformer_run, "a red ring", "-n", 1, "--out", tmp_path / "drawn"],
            "files",
        ),
        (["reconstruct", dvae_run, pairs / "000.png", "--out", tmp_path / "rebuilt"], "psnr"),
        (["export", transformer_run, "--out", tmp_path / "exported"], "files"),
        (["info", "transformer/tiny"], "parameters"),
        (["info", "clip/tiny"], "parameters"),
        (["info", dvae_run], "parameters"),
        (["info", clip_run], "parameters"),
        (["recipes", "list"], "dvae/tiny"),
        (["recipes", "show", "dvae/tiny"], "text"),
        (["recipes", "check", "dvae/tiny"], "model"),
        (["doctor"], "packages"),
    ]:
        assert key in result_of(dalle(*words, "--json")), words


@pytest.mark.parametrize("kind", ["dvae", "clip"])
def test_dry_run_prints_its_plan_as_json(
    kind: str, tmp_path: Path, pairs: Path, dalle: Callable
) -> None:
    words = [
        f"train-{kind}",
        f"{kind}/tiny",
        "--data",
        pairs,
        "--run",
        tmp_path / "run",
        "--dry-run",
        "--json",
    ]
    assert result_of(dalle(*words))


@pytest.mark.parametrize("kind", ["dvae", "clip"])
def test_quiet_training_prints_results_alone(
    kind: str, tmp_path: Path, pairs: Path, dalle: Callable
) -> None:
    whole_captions = ["--set", "model.text_len=24"] if kind == "clip" else []
    ended = dalle(
        f"train-{kind}",
        f"{kind}/tiny",
        "--data",
        pairs,
        "--run",
        tmp_path / "run",
        *TINY,
        "--set",
        "data.validation_share=0.35",  # of fewer held-out samples it would warn
        *whole_captions,
        "--quiet",
    )
    assert (ended.code, ended.out, ended.err) == (0, f"{tmp_path / 'run'}\n", "")


def test_reconstruction_lays_pictures_side_by_side(
    tmp_path: Path, pairs: Path, dvae_run: Path, transformer_run: Path, dalle: Callable
) -> None:
    facts = [
        result_of(dalle("reconstruct", run, pairs, "--out", tmp_path / run.name, "--json"))
        for run in (dvae_run, transformer_run)
    ]
    assert facts[0]["psnr"] == facts[1]["psnr"] and len(facts[0]["pictures"]) == 23

    assert all(
        Path(row["file"]).is_file() and -1 <= row["ssim"] <= 1 for row in facts[0]["pictures"]
    )
    mean = sum(row["ssim"] for row in facts[0]["pictures"]) / 23
    assert facts[0]["ssim"] == pytest.approx(mean, abs=1e-4)

    # 64 entries, 4x4 cells, 32 by 32 pixels
    assert facts[0]["bits_per_pixel"] == pytest.approx(6 * 16 / 1024)
    most = math.log2(facts[0]["codes_used"]) * 16 / 1024
    assert 0 <= facts[0]["bits_per_pixel_by_entropy"] <= most + 1e-5
    assert (tmp_path / dvae_run.name / "grid.png").is_file()


def test_reconstruction_counts_codes_with_and_without_blank_cells(
    tmp_path: Path, pairs: Path, dvae_run: Path, dalle: Callable
) -> None:
    noise = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    noise[:16] = 255

    Image.fromarray(noise).save(tmp_path / "half.png")
    facts = result_of(
        dalle("reconstruct", dvae_run, tmp_path / "half.png", "--out", tmp_path / "out", "--json")
    )
    tokens = load_dvae(dvae_run).image_tokens(
        to_tensor(Image.fromarray(noise))[None].float() / 255
    )[0]

    assert facts["codes_used"] == len(tokens.unique())
    assert facts["perplexity"] == pytest.approx(perplexity(code_counts(tokens, 64)), abs=0.01)
    assert facts["perplexity_without_blanks"] == pytest.approx(
        perplexity(code_counts(tokens[8:], 64)), abs=0.01
    )


def test_reconstruction_leaves_out_what_is_no_picture(
    tmp_path: Path, pairs: Path, dvae_run: Path, dalle: Callable
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "good.png").write_bytes((pairs / "000.png").read_bytes())
    (folder / "bad.png").write_text("not a picture")
    (folder / "folder.png").mkdir()
    (folder / "dangling.png").symlink_to(tmp_path / "nowhere")
    (folder / "other.bmp").touch()
    ended = dalle("reconstruct", dvae_run, folder, "--out", tmp_path / "out", "--json")
    assert [Path(row["picture"]).name for row in result_of(ended)["pictures"]] == ["good.png"]
    assert "skipped" in ended.err and "bad.png" in ended.err
    assert "not read: 1 .bmp" in ended.err and "dangling.png: not a regular file" in ended.err


def test_picture_with_the_longest_of_names_is_rebuilt(
    tmp_path: Path, pairs: Path, dvae_run: Path, dalle: Callable
) -> None:
    picture = tmp_path / f"{'x' * 251}.png"
    picture.write_bytes((pairs / "000.png").read_bytes())
    assert dalle("reconstruct", dvae_run, picture, "--out", tmp_path / "out").code == 0


@pytest.mark.parametrize("kind", ["dvae", "transformer", "clip"])
def test_info_counts_what_the_run_holds(
    kind: str, request: pytest.FixtureRequest, dalle: Callable
) -> None:
    run = request.getfixturevalue(f"{kind}_run")
    held = sum(tensor.numel() for tensor in load_file(run / "model" / "model.safetensors").values())
    facts = result_of(dalle("info", run, "--json"))
    parts = {
        part: n
        for part, n in facts["parameters"].items()
        if part not in ("all", "of these in matrices")
    }
    assert facts["kind"] == kind and facts["parameters"]["all"] == held == sum(parts.values())


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["dvae", "transformer", "clip"])
def test_info_of_an_exported_model_is_that_of_the_run(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, dalle: Callable
) -> None:
    run = request.getfixturevalue(f"{kind}_run")
    assert dalle("export", run, "--out", tmp_path / "exported").code == 0
    exported, trained = (
        result_of(dalle("info", folder, "--json")) for folder in (tmp_path / "exported", run)
    )
    assert exported.pop("run")["checkpoints"] == [] and trained.pop("run")["checkpoints"]
    assert exported == trained


def test_masks_are_drawn(tmp_path: Path, dalle: Callable) -> None:
    facts = result_of(dalle("info", "transformer/tiny", "--masks", tmp_path / "masks", "--json"))
    assert set(facts["masks"]) == {"row", "column", "convolutional"}
    with Image.open(facts["masks"]["row"]) as picture:
        assert (
            picture.convert("L").getpixel((0, 0)) == 255
            and picture.convert("L").getpixel((511, 0)) == 0
        )


@pytest.mark.thorough
def test_every_shipped_recipe_is_sound_and_shown_as_it_is(tmp_path: Path, dalle: Callable) -> None:
    names = result_of(dalle("recipes", "list", "--json"))
    assert {"dvae/tiny", "transformer/tiny", "clip/tiny"} <= set(names) and all(names.values())
    for name in names:
        assert dalle("recipes", "check", name).code == 0
        (tmp_path / "mine.toml").write_text(dalle("recipes", "show", name).out)
        mine = dalle("recipes", "check", tmp_path / "mine.toml", "--json")
        assert result_of(mine) == result_of(dalle("recipes", "check", name, "--json"))


def test_overrides_are_shown_as_they_will_run(dalle: Callable) -> None:
    words = [
        "--set",
        "training.steps=77",
        "--set",
        "runtime.precision=bf16",
        "--set",
        "optimizer.lr.end=0",
    ]

    facts = result_of(dalle("recipes", "check", "dvae/tiny", *words, "--json"))
    assert facts["training"]["steps"] == 77
    assert facts["runtime"]["precision"] == "bf16"
    assert facts["optimizer"]["lr"]["end"] == 0


def test_doctor_names_what_is_there(dalle: Callable) -> None:
    import torch

    facts = result_of(dalle("doctor", "--json"))
    assert facts["packages"]["torch"] == torch.__version__.partition("+")[0] or facts["packages"][
        "torch"
    ] == (torch.__version__)
    assert "torch" in dalle("doctor").out


def test_doctor_tells_what_is_free_of_the_disk(
    dalle: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = SimpleNamespace(total=100 * 2**30, used=99 * 2**30, free=2**30)
    monkeypatch.setattr("shutil.disk_usage", lambda path: sizes)
    assert result_of(dalle("doctor", "--json"))["free disk here"] == "1.0 GiB"


@pytest.mark.thorough
def test_doctor_measures_what_training_is_compared_with(
    tmp_path: Path, pairs: Path, dvae_run: Path, dalle: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")  # so that every figure of a report is shown
    measured = result_of(dalle("doctor", "--measure", "--json"))["measured"]
    assert set(measured) == {
        "fp32 matrix rate",
        "bf16 matrix rate",
        "memory bandwidth",
        "checkpoint write rate",
    }

    words = [
        "--data",
        pairs,
        "--dvae",
        dvae_run,
        "--run",
        tmp_path / "run",
        *TINY,
        "--precision",
        "fp32",
    ]
    ended = dalle("train-transformer", "transformer/tiny", *words)
    assert ended.code == 0

    for shown in (
        " images/s",
        " tokens/s",
        " TFLOP/s",
        " MFU ",
        " GiB",
        " nats/token",
        " bits/token",
    ):
        assert shown in ended.err

    report = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    rate = report["train/tflops_per_second"] / report["train/mfu"]
    assert f"{rate:.3g} TFLOP/s" == measured["fp32 matrix rate"]

    per_image = result_of(dalle("info", tmp_path / "run", "--json"))["tflop_per_image"]
    assert report["train/tflops_per_second"] == pytest.approx(
        report["train/images_per_second"] * per_image["training"], rel=1e-3
    )


def test_bf16_runs_end_to_end(tmp_path: Path, pairs: Path, dvae_run: Path, dalle: Callable) -> None:
    words = [
        "--data",
        pairs,
        "--dvae",
        dvae_run,
        "--run",
        tmp_path / "run",
        *TINY,
        "--precision",
        "bf16",
    ]

    ended = dalle("train-transformer", "transformer/tiny", *words)
    assert ended.code == 0 and ", bf16" in ended.err
    assert dalle("generate", tmp_path / "run", "a ring", "-n", 1, "--precision", "bf16").code == 0


class Interrupting(io.StringIO):
    """A standard input at which someone presses Ctrl-C."""

    @property
    def buffer(self) -> io.BytesIO:
        signal.raise_signal(signal.SIGINT)
        return io.BytesIO()


def test_interrupt_at_the_keyboard_exits_with_130(transformer_run: Path, dalle: Callable) -> None:
    ended = dalle("generate", transformer_run, "--prompts", "-", stdin=Interrupting())
    assert ended.code == 130 and ended.out == ""


def test_reader_that_goes_away_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "dalle_cli", "recipes", "show", "dvae/tiny"]
    ended = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert ended.returncode == 1 and ended.stderr == ""


def test_run_that_met_too_many_bad_samples_is_saved_and_goes_on_once_more_are_borne(
    tmp_path: Path, make_pairs: Callable, dalle: Callable
) -> None:
    data, run = make_pairs(tmp_path / "data", 12), tmp_path / "run"
    for picture in sorted(data.glob("*.png"))[:5]:
        picture.write_bytes(picture.read_bytes()[:-30])  # which only decoding shows
    words = ["train-dvae", "dvae/tiny", "--data", data, "--run", run, "--set"]
    stopped = dalle(*words, "data.max_bad_share=0.2")
    assert stopped.code == 1 and "samples are bad" in stopped.err
    assert len(list((run / "checkpoints").iterdir())) == 1
    ended = dalle(*words, "data.max_bad_share=0.9")
    assert ended.code == 0, ended.err
    assert "resumed after step" in ended.err and "bad samples" in ended.err
