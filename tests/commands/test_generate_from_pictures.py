"""`generate` from a picture, with guidance, and on a terminal.

What is kept, what is recorded, what is shown.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dalle_cli.data.augment import centre_crop
from dalle_cli.data.images import to_image
from dalle_cli.generation.dalle import DallePipeline
from dalle_cli.generation.pipeline import BatchSizes, Candidate
from dalle_cli.generation.ranking import image_perplexity
from dalle_cli.generation.sampling import SamplingSettings
from dalle_cli.loading import load_dvae, load_tokenizer, load_transformer
from dalle_cli.storage.run_dir import RunDir

FP32 = ["--precision", "fp32"]  # spares the race between the two
W = 4
CANDIDATES = [Candidate("a red circle", number) for number in range(3)]


@pytest.fixture
def picture(pairs: Path) -> Path:
    return pairs / "005.png"


@pytest.fixture
def draw(
    transformer_run: Path, tmp_path: Path, dalle: Callable
) -> Callable[..., list[dict[str, Any]]]:
    """Draw three pictures of a caption into a new folder and give the manifest."""

    def generate(*words: object, name: str = "drawn") -> list[dict[str, Any]]:
        given = [
            "a red circle",
            "-n",
            3,
            "--batch-size",
            3,
            *words,
            "--out",
            tmp_path / name,
            *FP32,
        ]
        ended = dalle("generate", transformer_run, *given)
        assert ended.code == 0, ended.err
        return [
            json.loads(line)
            for line in (tmp_path / name / "manifest.jsonl").read_text().splitlines()
        ]

    return generate


@pytest.fixture
def painter(transformer_run: Path) -> DallePipeline:
    models = load_transformer(transformer_run), load_dvae(transformer_run)
    return DallePipeline(*models, load_tokenizer(RunDir(transformer_run)), torch.device("cpu"))


def tokens_of(picture: Path, painter: DallePipeline) -> torch.Tensor:
    square = centre_crop(Image.open(picture).convert("RGB"), painter.dvae.image_size)
    return painter.dvae.image_tokens(torch.from_numpy(square / 255).float().permute(2, 0, 1)[None])[
        0
    ]


def is_drawn(words: list[object]) -> torch.Tensor:
    """Mark what the options leave to be drawn, bool [I]."""
    marked = torch.zeros(W, W, dtype=torch.bool)
    if "--redraw" in words:
        marked[1:3, 2:4] = True
    else:
        marked[words[1] if words else 1 :] = True
    return marked.flatten()


@pytest.mark.parametrize("guidance", [1, 3])
@pytest.mark.parametrize("words", [[], ["--keep-rows", 2], ["--redraw", "1,2,2,2"]], ids=str)
def test_pictures_are_those_of_the_tokens_kept_and_drawn(
    words: list[object],
    guidance: float,
    picture: Path,
    painter: DallePipeline,
    draw: Callable,
    tmp_path: Path,
) -> None:
    records = draw("--image", picture, *words, "--guidance", guidance)
    kept = tokens_of(picture, painter).masked_fill(is_drawn(words), -1)
    settings = SamplingSettings(guidance=guidance)
    pipeline = replace(painter, sampling=settings, kept_tokens=kept)
    (batch,) = pipeline.generate(CANDIDATES, range(3), BatchSizes(3, 3))
    assert (batch.image_tokens[:, kept >= 0] == kept[kept >= 0]).all()
    for record, tokens in zip(records, batch.image_tokens, strict=True):
        with Image.open(tmp_path / "drawn" / record["file"]) as drawn:
            assert drawn.tobytes() == to_image(painter.dvae.decode(tokens[None])[0]).tobytes()


@pytest.mark.parametrize(
    ("words", "recorded"),
    [
        ([], {"keep_rows": 1}),
        (["--keep-rows", 2], {"keep_rows": 2}),
        (["--redraw", "1,2,2,2"], {"redraw": [1, 2, 2, 2]}),
    ],
    ids=str,
)
def test_manifest_job_and_text_chunks_tell_the_picture_and_what_was_kept(
    words: list[object], recorded: dict, picture: Path, draw: Callable, tmp_path: Path
) -> None:
    records = draw("--image", picture, *words, "--guidance", 2)
    source = {
        "image": picture.name,
        "image_sha256": hashlib.sha256(picture.read_bytes()).hexdigest(),
    }
    expected = {**source, **recorded, "guidance": 2.0}
    assert expected.items() <= json.loads((tmp_path / "drawn" / "job.json").read_text()).items()
    for record in records:
        assert expected.items() <= record.items()
        with Image.open(tmp_path / "drawn" / record["file"]) as drawn:
            assert drawn.text == {name: str(value) for name, value in record.items()}


def test_folder_is_gone_on_with_by_the_same_picture_alone(
    picture: Path,
    pairs: Path,
    transformer_run: Path,
    draw: Callable,
    tmp_path: Path,
    dalle: Callable,
    tree: Callable,
) -> None:
    words = ["--image", picture, "--keep-rows", 2, "--guidance", 2]
    draw(*words)
    finished = tree(tmp_path / "drawn")
    manifest = tmp_path / "drawn" / "manifest.jsonl"
    manifest.write_bytes(b"".join(manifest.read_bytes().splitlines(keepends=True)[:1]))
    (tmp_path / "drawn" / "0001.png").unlink()
    given = ["a red circle", "-n", 3, "--batch-size", 3, "--out", tmp_path / "drawn", *FP32]
    for others, differing in (
        (["--image", pairs / "006.png", *words[2:]], "image, image_sha256"),
        ([*words[:2], "--redraw", "1,2,2,2", *words[4:]], "keep_rows, redraw"),
        (words[4:], "image, image_sha256, keep_rows"),
        (words[:4], "guidance"),
    ):
        ended = dalle("generate", transformer_run, *given, *others)
        assert ended.code == 2 and f"belongs to another job, with other {differing}\n" in ended.err
    draw(*words)
    assert tree(tmp_path / "drawn") == finished


@pytest.mark.parametrize("words", [["--keep-rows", 2], ["--redraw", "1,2,2,2"]], ids=str)
def test_pictures_begun_from_another_are_ranked_by_perplexity(
    words: list[object], picture: Path, painter: DallePipeline, draw: Callable
) -> None:
    records = draw("--image", picture, *words, "--guidance", 2, "--rank", "perplexity")
    kept = tokens_of(picture, painter).masked_fill(is_drawn(words), -1)
    pipeline = replace(painter, sampling=SamplingSettings(guidance=2.0), kept_tokens=kept)
    (batch,) = pipeline.generate(CANDIDATES, range(3), BatchSizes(3, 3))
    perplexities = image_perplexity(painter.transformer, batch.text_tokens, batch.image_tokens)
    assert [record["score"] for record in records] == pytest.approx(sorted(perplexities), rel=1e-5)
    assert [perplexities[record["number"]] for record in records] == pytest.approx(
        sorted(perplexities)
    )


def test_pictures_begun_from_another_are_ranked_by_clip(
    picture: Path, clip_run: Path, draw: Callable, tmp_path: Path
) -> None:
    words = ["--image", picture, "--guidance", 2]
    unranked = draw(*words, name="unranked")
    ranked = draw(*words, "--clip", clip_run, name="ranked")
    assert [record["rank"] for record in ranked] == [1, 2, 3]
    for record in ranked:
        same = unranked[record["number"]]["file"]
        assert pixels(tmp_path / "ranked" / record["file"]) == pixels(tmp_path / "unranked" / same)


def pixels(path: Path) -> bytes:
    with Image.open(path) as picture:
        return picture.tobytes()


def test_guidance_of_one_draws_as_without_it(
    draw: Callable, tmp_path: Path, tree: Callable
) -> None:
    draw(name="plain")
    draw("--guidance", 1, name="one")
    draw("--guidance", 2, name="two")
    assert tree(tmp_path / "plain") == tree(tmp_path / "one") != tree(tmp_path / "two")


@pytest.fixture
def colourful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make rich take what it writes to for a terminal of many colours."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in {
        "FORCE_COLOR": "1",
        "TERM": "xterm-256color",
        "COLORTERM": "truecolor",
        "COLUMNS": "50",
    }.items():
        monkeypatch.setenv(name, value)


def shown(transformer_run: Path, out: Path, dalle: Callable, *words: object) -> str:
    captions = ["a red circle", "a [bold]\x1b[31mring[/bold]"]
    ended = dalle("generate", transformer_run, *captions, "-n", 3, "--out", out, *FP32, *words)
    assert ended.code == 0 and ended.out == f"{out}\n"
    return ended.err


def test_previews_are_shown_under_their_captions(
    colourful: None, transformer_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    text = shown(transformer_run, tmp_path / "drawn", dalle, "--show")
    assert text.count("▀") == 2 * (2 * 24 * 12)  # for each caption, two pictures fit
    first, second = text.rindex("a red circle"), text.rindex("a [bold][31mring[/bold]")
    assert first < text.index("▀") < second < text.rindex("▀")
    again = shown(transformer_run, tmp_path / "drawn", dalle, "--show")
    assert "nothing to do" in again and again.count("▀") == text.count("▀")


@pytest.mark.parametrize("name", ["not asked for", "quiet", "no colours", "no terminal"])
def test_no_previews_are_shown_where_they_are_not_wanted_or_cannot_be(
    name: str,
    transformer_run: Path,
    tmp_path: Path,
    dalle: Callable,
    request: pytest.FixtureRequest,
) -> None:
    if name != "no terminal":
        request.getfixturevalue("colourful")
    if name == "no colours":
        request.getfixturevalue("monkeypatch").setenv("NO_COLOR", "1")
    words = {"not asked for": [], "quiet": ["--show", "--quiet"]}.get(name, ["--show"])
    assert "▀" not in shown(transformer_run, tmp_path / "drawn", dalle, *words)
