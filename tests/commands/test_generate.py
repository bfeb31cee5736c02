"""`generate`.

What a picture depends on, which are kept, what is written, and what captions may do to a terminal.
"""

import html
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from toy_about import ABOUT

from dalle_cli.data.augment import clip_square
from dalle_cli.data.sources.captions import clean_captions
from dalle_cli.generation.dalle import DallePipeline
from dalle_cli.generation.pipeline import BatchSizes, Candidate
from dalle_cli.generation.ranking import image_perplexity
from dalle_cli.loading import (
    load_clip,
    load_clip_tokenizer,
    load_dvae,
    load_tokenizer,
    load_transformer,
)
from dalle_cli.storage.integrity.checksums import checksummed_json
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.viz import GAP, MIN_TILE, TEXT_HEIGHT

HOSTILE = [
    "[bold red]a red circle[/bold red]",
    "[/nonsense] [link=https://example.org]x[/link] {task} %s",
    "a \x1b[31mred\x1b[0m circle \x1b]0;owned\x07",
    "a \u202eelcric der\u202c \u2066circle\u2069",
    "a red\x9b31m circle\x00\x7f",
    "🦜 鹦鹉 " + "z\u0335\u0321" * 40,
]
RAW = set("\x1b\x07\x9b\x7f\x00\u202e\u202c\u2066\u2069")
FP32 = ["--precision", "fp32"]  # spares the race between the two


@pytest.fixture
def draw(transformer_run: Path, tmp_path: Path, dalle: Callable) -> Callable[..., dict[str, bytes]]:
    """Draw into a new folder and give its files."""

    def generate(
        *words: object, name: str = "drawn", run: Path = transformer_run, **options: bytes
    ):
        ended = dalle("generate", run, "--out", tmp_path / name, *FP32, *words, **options)
        assert ended.code == 0, ended.err
        assert ended.out == f"{tmp_path / name}\n"
        return {path.name: path.read_bytes() for path in sorted((tmp_path / name).iterdir())}

    return generate


def pixels(files: dict[str, bytes], folder: Path) -> list[bytes]:
    """Decode the single pictures of a folder."""
    return [Image.open(folder / name).tobytes() for name in sorted(files) if name[0].isdigit()]


def pictures_of(files: dict[str, bytes]) -> dict[str, bytes]:
    """Leave out what is not one of the pictures."""
    return {name: content for name, content in files.items() if name[0].isdigit()}


def records_of(files: dict[str, bytes]) -> list[dict[str, Any]]:
    """Read the manifest."""
    return [json.loads(line) for line in files["manifest.jsonl"].decode().splitlines()]


def test_same_seed_draws_the_same_files_and_another_others(draw: Callable, tmp_path: Path) -> None:
    words = ["a red circle", "a blue ring", "-n", 3]
    one, same = draw(*words, name="one"), draw(*words, name="same")
    assert one == same and set(one) == {
        *(f"{i:04d}.png" for i in range(6)),
        "grid.png",
        "index.html",
        "job.json",
        "manifest.jsonl",
    }
    other = draw(*words, "--seed", 1, name="other")
    assert pixels(one, tmp_path / "one") != pixels(other, tmp_path / "other")


def test_short_last_batch_gives_the_pictures_of_a_full_one(draw: Callable, tmp_path: Path) -> None:
    short = pictures_of(draw("a red circle", "-n", 5, "--batch-size", 4, name="short"))
    full = pictures_of(draw("a red circle", "-n", 8, "--batch-size", 4, name="full"))
    assert {name: full[name] for name in short} == short


def test_first_goes_on_after_earlier_pictures(draw: Callable, tmp_path: Path) -> None:
    words = ["a red circle", "a blue ring", "--batch-size", 4]
    whole = draw(*words, "-n", 4, name="whole")
    rest = draw(*words, "-n", 2, "--first", 2, name="rest")
    assert [record["number"] for record in records_of(rest)] == [2, 3, 2, 3]
    shown = pixels(whole, tmp_path / "whole")
    assert pixels(rest, tmp_path / "rest") == [*shown[2:4], *shown[6:8]]


@pytest.mark.parametrize("caption", ["it's <b>red</b>", "--red"])
def test_gallery_names_the_command_that_generates_each_picture_again(
    caption: str,
    draw: Callable,
    tmp_path: Path,
    dalle: Callable,
    transformer_run: Path,
    clip_run: Path,
) -> None:
    words = ["-n", 3, "--seed", 7, "--top-k", 9, "--clip", clip_run, "--batch-size", 1]
    drawn = draw(*words, "--", caption)
    page = html.unescape(drawn["index.html"].decode())
    commands = [shlex.split(found) for found in re.findall("<code>(.*?)</code>", page)]
    assert [words[:2] for words in commands] == [["dalle", "generate"]] * 3

    for number, words in enumerate(commands):
        assert (words[2], words[-1]) == (str(transformer_run), caption)
        out = ["--out", tmp_path / f"again-{number}", *FP32]
        ended = dalle("generate", *out, *words[2:])
        assert ended.code == 0, ended.err
        again = Image.open(tmp_path / f"again-{number}" / "0000.png")
        written = Image.open(tmp_path / "drawn" / f"{number:04d}.png")
        assert again.tobytes() == written.tobytes()


def test_pictures_do_not_depend_on_what_is_drawn_beside_them(
    draw: Callable, tmp_path: Path
) -> None:
    both = draw("a red circle", "a blue ring", "-n", 4, "--batch-size", 4, name="both")
    alone = draw("a blue ring", "-n", 4, "--batch-size", 4, name="alone")
    assert pixels(both, tmp_path / "both")[4:] == pixels(alone, tmp_path / "alone")


@pytest.mark.thorough
def test_export_draws_the_pictures_of_the_run(
    draw: Callable, transformer_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    assert dalle("export", transformer_run, "--out", tmp_path / "exported").code == 0
    again = draw("a red circle", "-n", 3, name="again", run=tmp_path / "exported")
    assert pictures_of(draw("a red circle", "-n", 3)) == pictures_of(again)


def test_manifest_and_text_chunks_say_how_a_picture_came_to_be(
    draw: Callable, tmp_path: Path
) -> None:
    words = [
        "--temperature",
        0.5,
        "--top-k",
        7,
        "--top-p",
        0.9,
        "--guidance",
        1.5,
        "--seed",
        12,
        "--batch-size",
        3,
    ]
    files = draw("a red circle", "ein grüner Ring", "-n", 2, *words)
    records = records_of(files)
    assert [record["file"] for record in records] == [name for name in files if name[0].isdigit()]
    for record, (caption, number) in zip(
        records, [(c, n) for c in ("a red circle", "ein grüner Ring") for n in (0, 1)], strict=True
    ):
        expected = {
            "caption": caption,
            "number": number,
            "seed": 12,
            "temperature": 0.5,
            "top_k": 7,
            "top_p": 0.9,
            "sampling_batch_size": 3,
            "device": "cpu",
            "guidance": 1.5,
        }
        assert expected.items() <= record.items() and len(record["model"]) == 64
        with Image.open(tmp_path / "drawn" / record["file"]) as picture:
            assert picture.text == {name: str(value) for name, value in record.items()}


def test_what_the_author_advises_is_taken_unless_something_else_is_given(
    draw: Callable, transformer_run: Path, tmp_path: Path
) -> None:
    advised = tmp_path / "advised"
    shutil.copytree(transformer_run, advised)
    (advised / "about.toml").write_text(f"{ABOUT}[sampling]\ntemperature = 0.5\nguidance = 2.0\n")
    given = {}
    for name, words in (("none", []), ("some", ["--guidance", 1.0])):
        files = draw("a red circle", "-n", 1, *words, name=name, run=advised)
        record = json.loads(files["manifest.jsonl"])
        given[name] = record["temperature"], record["guidance"]
        page = html.unescape(files["index.html"].decode())
        assert ("--guidance 1.0" in page, "--temperature" in page) == (name == "some", False)
    assert given == {"none": (0.5, 2.0), "some": (0.5, 1.0)}


def test_temperature_zero_draws_the_likeliest_picture_whatever_the_seed(
    draw: Callable, tmp_path: Path
) -> None:
    tiles = {0: set(), 1: set()}
    for temperature in (0, 1):
        for seed in (0, 1) if temperature == 0 else (0,):
            name = f"{temperature} {seed}"
            files = draw(
                "a red circle", "-n", 4, "--temperature", temperature, "--seed", seed, name=name
            )
            tiles[temperature] |= set(pixels(files, tmp_path / name))
    assert len(tiles[0]) == 1 and len(tiles[1]) > 1


def test_captions_come_from_words_and_standard_input_alike(draw: Callable) -> None:
    words = draw("a red circle", "a blue ring", "-n", 2, name="words")
    text = "\ufeff  a red circle \r\n\n\ta blue ring\n"
    assert draw("--prompts", "-", "-n", 2, name="stdin", stdin=text.encode()) == words


def test_words_come_before_the_captions_of_a_file(draw: Callable, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("second")
    files = draw("first", "--prompts", tmp_path / "prompts.txt", "-n", 1)
    assert [record["caption"] for record in records_of(files)] == ["first", "second"]


def test_default_folders_are_numbered_inside_the_run(
    own_transformer_run: Path, dalle: Callable
) -> None:
    samples = own_transformer_run / "samples"
    words = ["generate", own_transformer_run, "a ring", "-n", 1, *FP32]
    folders = [dalle(*words).out.strip() for _ in range(2)]
    (samples / "041").mkdir()
    (samples / "notes").mkdir()
    folders.append(dalle(*words).out.strip())
    assert folders == [str(samples / name) for name in ("000", "001", "042")]


@pytest.mark.parametrize("caption", HOSTILE, ids=ascii)
def test_captions_never_reach_the_terminal_raw(
    caption: str, transformer_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    long = f"{caption} {'x ' * 40}"  # cut, and so told
    ended = dalle(
        "generate", transformer_run, long, caption, "-n", 1, "--out", tmp_path / "drawn", *FP32
    )
    assert ended.code == 0 and "caption truncated from" in ended.err
    assert not RAW & set(ended.err + ended.out)
    if caption.startswith("["):
        assert caption[:20] in ended.err  # as it is, not taken for markup
    records = [
        json.loads(line)
        for line in (tmp_path / "drawn" / "manifest.jsonl").read_text().splitlines()
    ]
    assert records[1]["caption"] == clean_captions([caption])[0]  # as captions are in training


def test_no_caption_leads_out_of_the_folder(
    transformer_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    captions = ["../../x", "/etc/passwd", "con", "🙂" * 300, "<script>", "-n"]
    (tmp_path / "prompts.txt").write_text("\n".join(captions))
    words = ["--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "a" / "b", "-n", 1, *FP32]
    assert dalle("generate", transformer_run, *words).code == 0
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    pictures = {f"a/b/{i:04d}.png" for i in range(len(captions))}
    described = {f"a/b/{name}" for name in ("grid.png", "index.html", "job.json", "manifest.jsonl")}
    assert names == {"prompts.txt", *pictures, *described}


def test_prompt_of_a_hundred_kilobytes_is_cut_and_drawn(
    transformer_run: Path, tmp_path: Path, dalle: Callable, hang_guard: None
) -> None:
    ended = dalle(
        "generate", transformer_run, "x" * 100_000, "-n", 1, "--out", tmp_path / "drawn", *FP32
    )
    assert ended.code == 0 and "caption truncated from" in ended.err and len(ended.err) < 1000
    assert (tmp_path / "drawn" / "grid.png").is_file()


CAPTIONS = ["a red circle", "a blue ring", "a red circle"]  # one of them twice


def cosines_by_hand(clip_run: Path, records: list[dict[str, Any]], folder: Path) -> list[float]:
    """Compare one picture with its caption after another."""
    clip = load_clip(clip_run)
    tokenizer = load_clip_tokenizer(clip_run, clip)
    cosines = []
    for record in records:
        square = clip_square(Image.open(folder / record["file"]), clip.image_size)
        pixels = torch.from_numpy(square.astype(np.float32) / 255).permute(2, 0, 1)[None]
        text = clip.encode_text(tokenizer([record["caption"]], clip.text_len))
        cosines.append(float(F.cosine_similarity(clip.encode_image(clip.normalise(pixels)), text)))
    return cosines


def assert_grid_shows(folder: Path, n_captions: int, n_shown: int) -> None:
    """See to it that a grid has the size for so many pictures, at most eight, of each caption."""
    size = n_shown * (MIN_TILE + GAP) + GAP, n_captions * (MIN_TILE + GAP + TEXT_HEIGHT) + GAP
    with Image.open(folder / "grid.png") as sheet:
        assert sheet.size == size


@pytest.mark.parametrize(
    ("n", "width", "best"),
    [(5, 3, 2), (3, 8, 3)],
    ids=["n no multiple of the width", "width above n"],
)
def test_best_are_those_of_the_unranked_pictures_that_clip_finds_best(
    n: int, width: int, best: int, draw: Callable, clip_run: Path, tmp_path: Path
) -> None:
    words = [*CAPTIONS, "-n", n, "--batch-size", width]
    unranked = records_of(draw(*words, name="unranked"))
    cosines = cosines_by_hand(clip_run, unranked, tmp_path / "unranked")
    files = draw(*words, "--clip", clip_run, "--best", best, name="ranked")
    kept = records_of(files)
    assert (
        list(pictures_of(files))
        == [f"{i:04d}.png" for i in range(3 * best)]
        == [one["file"] for one in kept]
    )
    expected = [
        place
        for first in range(0, 3 * n, n)
        for place in sorted(range(first, first + n), key=lambda i: -cosines[i])[:best]
    ]
    for i, (one, place) in enumerate(zip(kept, expected, strict=True)):
        assert (one["caption"], one["number"]) == (CAPTIONS[i // best], place % n)
        assert one.pop("score") == pytest.approx(cosines[place], abs=2e-6)
        assert (one.pop("rank"), one.pop("ranked_by")) == (i % best + 1, "clip")
        assert one | {"file": unranked[place]["file"]} == unranked[place]
        with (
            Image.open(tmp_path / "ranked" / one["file"]) as picture,
            Image.open(tmp_path / "unranked" / unranked[place]["file"]) as same,
        ):
            assert picture.tobytes() == same.tobytes()
    assert_grid_shows(tmp_path / "ranked", 3, best)


def test_the_others_follow_the_best_where_all_are_kept(
    draw: Callable, clip_run: Path, tmp_path: Path
) -> None:
    words = ["a red circle", "a blue ring", "-n", 5, "--batch-size", 4, "--clip", clip_run]
    best = draw(*words, "--best", 2, name="best")
    kept = draw(*words, "--best", 2, "--keep-all", name="kept")
    every = draw(*words, name="every")
    assert len(pictures_of(best)) == 4 and len(pictures_of(kept)) == 10
    assert [record["rank"] for record in records_of(kept)] == [1, 2, 3, 4, 5] * 2
    scores = [record["score"] for record in records_of(kept)]
    assert scores[:5] == sorted(scores[:5], reverse=True) and scores[5:] == sorted(
        scores[5:], reverse=True
    )
    both = [*pixels(kept, tmp_path / "kept")[:2], *pixels(kept, tmp_path / "kept")[5:7]]
    assert both == pixels(best, tmp_path / "best")
    assert kept["grid.png"] == best["grid.png"]  # the best alone
    assert (
        pictures_of(every) == pictures_of(kept)
        and every["manifest.jsonl"] == kept["manifest.jsonl"]
    )
    assert_grid_shows(tmp_path / "every", 2, 5)


def test_perplexity_puts_the_likeliest_first_and_needs_no_clip(
    draw: Callable, transformer_run: Path, tmp_path: Path
) -> None:
    files = draw("a red circle", "-n", 5, "--batch-size", 3, "--rank", "perplexity", "--best", 4)
    transformer = load_transformer(transformer_run)
    tokenizer = load_tokenizer(RunDir(transformer_run))
    painter = DallePipeline(transformer, load_dvae(transformer_run), tokenizer, torch.device("cpu"))
    candidates = [Candidate("a red circle", number) for number in range(5)]
    batches = painter.generate(candidates, range(5), BatchSizes(3, 3))
    rows = [
        row
        for batch in batches
        for row in zip(batch.text_tokens, batch.image_tokens, batch.pictures, strict=True)
    ][:5]
    perplexities = [
        image_perplexity(transformer, text[None], image[None])[0] for text, image, _ in rows
    ]
    order = sorted(range(5), key=lambda i: perplexities[i])[:4]
    records = records_of(files)
    assert [(record["number"], record["rank"]) for record in records] == list(
        zip(order, (1, 2, 3, 4), strict=True)
    )
    assert [record["score"] for record in records] == pytest.approx(
        [perplexities[i] for i in order], rel=1e-5
    )
    assert {record["ranked_by"] for record in records} == {"perplexity"}
    assert pixels(files, tmp_path / "drawn") == [rows[i][2].tobytes() for i in order]


def test_gain_by_the_caption_puts_the_highest_first(
    draw: Callable, transformer_run: Path, tmp_path: Path
) -> None:
    words = ["a red circle", "-n", 5, "--batch-size", 5, "--rank", "caption"]
    ranked = records_of(draw(*words, name="ranked"))
    best = records_of(draw(*words, "--best", 2, name="best"))
    scores = [record["score"] for record in ranked]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) > 1
    assert {record["ranked_by"] for record in ranked} == {"caption"} and best == ranked[:2]


def test_gain_by_the_caption_needs_training_with_empty_captions(
    own_transformer_run: Path, dalle: Callable
) -> None:
    file = own_transformer_run / "recipe.json"
    recorded = json.loads(file.read_text())
    recorded["recipe"]["loss"]["caption_dropout"] = 0.0
    file.write_bytes(checksummed_json(recorded))
    words = ["generate", own_transformer_run, "a ring", "-n", 2, "--rank", "caption", *FP32]
    ended = dalle(*words)
    assert ended.code == 2 and "`loss.caption_dropout` was 0" in ended.err
    assert "hint: rank by a CLIP" in ended.err
    assert not (own_transformer_run / "samples").exists()


def test_checkpoint_draws_what_an_export_of_it_draws(
    draw: Callable, transformer_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    out = tmp_path / "exported"
    assert dalle("export", transformer_run, "--checkpoint", 3, "--out", out).code == 0
    words = ["a red circle", "-n", 3]
    drawn = draw(*words, "--checkpoint", 3, name="checkpoint")
    exported = draw(*words, name="export", run=out)
    newest = draw(*words, name="newest")
    pictures = pixels(drawn, tmp_path / "checkpoint")
    assert pictures == pixels(exported, tmp_path / "export") != pixels(newest, tmp_path / "newest")
    assert {record["checkpoint"] for record in records_of(drawn)} == {3}
    assert json.loads(drawn["job.json"])["checkpoint"] == 3
    assert "checkpoint" not in json.loads(newest["job.json"])


def test_last_checkpoint_draws_what_the_model_folder_draws(draw: Callable, tmp_path: Path) -> None:
    words = ["a red circle", "-n", 3]
    last = draw(*words, "--checkpoint", "last", name="last")
    model = draw(*words, name="model")
    assert pixels(last, tmp_path / "last") == pixels(model, tmp_path / "model")


def test_job_of_one_checkpoint_is_not_gone_on_with_by_another(
    draw: Callable, transformer_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    draw("a ring", "-n", 1, "--checkpoint", 3)
    words = ["-n", 1, "--checkpoint", 6, "--out", tmp_path / "drawn", *FP32]
    ended = dalle("generate", transformer_run, "a ring", *words)
    assert ended.code == 2 and "with other checkpoint, model\n" in ended.err
    assert "  checkpoint: 3 then, 6 now\n" in ended.err


def test_words_never_trained_on_are_warned_of_once_per_caption(
    transformer_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    words = ["a red octopus", "a red circle", "-n", 3, "--out", tmp_path / "drawn", *FP32]
    ended = dalle("generate", transformer_run, *words)
    assert ended.code == 0 and ended.err.count("never seen in training: ") == 1
    assert 'warning: never seen in training: "octopus"\n' in ended.err


def test_scores_are_in_the_text_chunks_and_in_the_json(
    transformer_run: Path, clip_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    words = ["a ring", "a red circle", "-n", 3, "--clip", clip_run, "--best", 2, *FP32, "--json"]
    result = json.loads(dalle("generate", transformer_run, *words, "--out", tmp_path / "drawn").out)
    records = [json.loads(line) for line in Path(result["manifest"]).read_text().splitlines()]
    assert result["files"] == [str(tmp_path / "drawn" / record["file"]) for record in records]
    assert (
        result["scores"] == [record["score"] for record in records] and len(result["scores"]) == 4
    )
    for record in records:
        with Image.open(tmp_path / "drawn" / record["file"]) as picture:
            assert picture.text == {name: str(value) for name, value in record.items()}
            assert {"rank", "score", "ranked_by", "number"} <= set(picture.text)


def test_no_folder_is_made_for_pictures_that_cannot_be_ranked(
    own_transformer_run: Path, dalle: Callable
) -> None:
    ended = dalle(
        "generate", own_transformer_run, "a ring", "--clip", own_transformer_run / "dvae", *FP32
    )
    assert ended.code == 2 and "holds a dvae, not a clip" in ended.err
    assert not (own_transformer_run / "samples").exists()


@pytest.mark.parametrize("guidance", [0, 1, 2])
@pytest.mark.parametrize("dropout", [0.0, 0.1, None])
def test_guidance_by_a_caption_that_was_never_trained_is_warned_of(
    dropout: float | None, guidance: float, own_transformer_run: Path, dalle: Callable
) -> None:
    file = own_transformer_run / "recipe.json"
    recorded = json.loads(file.read_text())
    recorded["recipe"]["loss"] = (
        {} if dropout is None else recorded["recipe"]["loss"] | {"caption_dropout": dropout}
    )
    file.write_bytes(checksummed_json(recorded))
    ended = dalle(
        "generate", own_transformer_run, "a ring", "-n", 1, "--guidance", guidance, "--quiet", *FP32
    )
    assert ended.code == 0
    assert ("never saw in training" in ended.err) == (dropout == 0 and guidance != 1)


def test_progress_says_how_long_the_pictures_took(
    transformer_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    ended = dalle(
        "generate", transformer_run, "a ring", "-n", 4, "--out", tmp_path / "drawn", *FP32
    )
    assert re.search(r"^picture 4/4  in \d+ s$", ended.err, re.MULTILINE)
