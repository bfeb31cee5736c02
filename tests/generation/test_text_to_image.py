"""The Python door: the pictures of `dalle generate`, in memory."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dalle_cli
from dalle_cli.errors import UsageError
from dalle_cli.generation.text_to_image import GenerationOptions
from dalle_cli.storage.model_about import SamplingAdvice

CAPTIONS = ["a red circle", "a blue square at the top"]


def written(folder: Path) -> list[tuple[str, int, float | None, np.ndarray]]:
    """Return caption, number, score and pixels of what `dalle generate` wrote."""
    lines = (folder / "manifest.jsonl").read_text("utf-8").splitlines()
    return [
        (
            record["caption"],
            record["number"],
            record.get("score"),
            np.asarray(Image.open(folder / record["file"])),
        )
        for record in map(json.loads, lines)
    ]


@pytest.mark.parametrize("ranked_by", [None, "clip", "perplexity"])
def test_pictures_are_those_of_the_command(
    ranked_by: str | None, transformer_run: Path, clip_run: Path, dalle: Callable, tmp_path: Path
) -> None:
    options = {
        None: [],
        "clip": ["--clip", clip_run, "--best", 2],
        "perplexity": ["--rank", "perplexity", "--best", 2],
    }[ranked_by]
    words = ["-n", 3, "--seed", 5, "--top-k", 40, "--precision", "fp32", *options]
    ended = dalle("generate", transformer_run, *CAPTIONS, *words, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err

    pipeline = dalle_cli.load_pipeline(transformer_run, clip=clip_run, precision="fp32")
    images = pipeline.generate(
        CAPTIONS, n=3, seed=5, top_k=40, rank=ranked_by, best=2 if ranked_by else 0
    )

    expected = written(tmp_path / "out")
    assert [(one.caption, one.number) for one in images] == [row[:2] for row in expected]
    for one, (_, _, score, pixels) in zip(images, expected, strict=True):
        assert one.seed == 5 and one.image.mode == "RGB"
        assert one.score == (None if score is None else pytest.approx(score, abs=1e-6))
        np.testing.assert_array_equal(np.asarray(one.image), pixels)


def test_one_caption_may_be_a_string(transformer_run: Path) -> None:
    images = dalle_cli.load_pipeline(str(transformer_run)).generate("a red circle", n=2)
    assert [(one.caption, one.number, one.rank) for one in images] == [
        ("a red circle", 0, None),
        ("a red circle", 1, None),
    ]


def test_pictures_come_batch_by_batch_and_are_those_of_the_command(
    transformer_run: Path, pairs: Path, dalle: Callable, tmp_path: Path
) -> None:
    file = pairs / "005.png"
    words = ["-n", 6, "--first", 2, "--seed", 5, "--rank", "perplexity", "--best", 4]
    words += ["--image", file, "--keep-rows", 2, "--batch-size", 3, "--precision", "fp32"]
    ended = dalle("generate", transformer_run, CAPTIONS[0], *words, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err

    loaded = dalle_cli.load_pipeline(transformer_run, precision="fp32")
    options = GenerationOptions(
        n=6, first=2, seed=5, rank="perplexity", best=4, keep_rows=2, batch_size=4,
        image=Image.open(file).convert("RGB"),
    )  # fmt: skip
    shares: list[float] = []
    generation = loaded.prepare([CAPTIONS[0]], options, on_progress=shares.append)
    images, seen = [], []
    for image in generation.images():
        images.append(image)
        seen.append(shares[-1])
    assert generation.sizes.sampling == 3 and seen == pytest.approx([0.5] * 3 + [1.0] * 3)
    assert [one.number for one in images] == list(range(2, 8))
    assert all(one.rank is None and one.score is not None for one in images)

    kept, expected = generation.kept(images), written(tmp_path / "out")
    assert [one.rank for one in kept] == [1, 2, 3, 4]
    for one, (_, number, score, pixels) in zip(kept, expected, strict=True):
        assert one.number == number and one.score == pytest.approx(score, abs=1e-6)
        np.testing.assert_array_equal(np.asarray(one.image), pixels)


def test_rankings_are_those_that_the_model_can_do(transformer_run: Path, clip_run: Path) -> None:
    loaded = dalle_cli.load_pipeline(transformer_run, clip=clip_run)
    assert loaded.rankings == ("clip", "caption", "perplexity")
    pipeline = replace(loaded.pipeline, knows_empty_caption=False)
    assert replace(loaded, pipeline=pipeline, scorer=None).rankings == ("perplexity",)


def test_what_the_command_warns_of_is_a_warning(transformer_run: Path) -> None:
    pipeline = dalle_cli.load_pipeline(transformer_run)
    with pytest.warns(UserWarning, match="caption given 2 times"):
        pipeline.generate(["a red circle"] * 2, n=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "0 of 0 pictures"),
        ({"n": 2, "best": 3, "rank": "perplexity"}, "3 of 2 pictures"),
        ({"best": 1}, "nothing says which"),
        ({"rank": "clip"}, "no CLIP was loaded"),
        ({"rank": "size"}, "no such ranking"),
        ({"top_p": 0.0}, "top_p"),
        ({"temperature": float("nan")}, "temperature"),
        ({"guidance": -1.0}, "guidance"),
    ],
)
def test_options_that_cannot_be_right(options: dict, message: str, transformer_run: Path) -> None:
    with pytest.raises(UsageError, match=message):
        dalle_cli.load_pipeline(transformer_run).generate("a red circle", **options)
    with pytest.raises(UsageError, match="no caption"):
        dalle_cli.load_pipeline(transformer_run).generate([])


def test_what_the_author_advises_is_taken_unless_something_else_is_given(
    transformer_run: Path,
) -> None:
    loaded = dalle_cli.load_pipeline(transformer_run)
    advised = replace(loaded, advice=SamplingAdvice(temperature=0))
    [first], [second] = (advised.generate("a red circle", 1, seed=seed) for seed in (0, 1))
    assert first.image.tobytes() == second.image.tobytes()
    usual, [given] = (
        loaded.generate("a red circle", 1),
        advised.generate("a red circle", 1, temperature=1),
    )
    assert usual[0].image.tobytes() == given.image.tobytes()


def test_gain_by_the_caption_needs_training_with_empty_captions(transformer_run: Path) -> None:
    loaded = dalle_cli.load_pipeline(transformer_run)
    without = replace(loaded, pipeline=replace(loaded.pipeline, knows_empty_caption=False))
    assert loaded.generate("a red circle", n=1, rank="caption")[0].rank == 1
    with pytest.raises(UsageError, match="never saw in training"):
        without.generate("a red circle", n=1, rank="caption")


@pytest.mark.thorough
def test_importing_the_package_imports_no_torch() -> None:
    script = "import sys, dalle_cli; assert 'torch' not in sys.modules; dalle_cli.load_dvae"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert set(dalle_cli.__all__) <= set(dir(dalle_cli)) | set(dalle_cli.HOMES)
    with pytest.raises(AttributeError):
        dalle_cli.load_nothing  # noqa: B018


def test_names_of_shipped_models_are_understood(
    transformer_run: Path, clip_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "toy").symlink_to(transformer_run)
    (tmp_path / "toy-clip").symlink_to(clip_run)
    monkeypatch.setattr("dalle_cli.storage.shipped.shipped_folder", lambda name: tmp_path)
    assert dalle_cli.load_pipeline("toy", clip="toy-clip").scorer is not None
    assert dalle_cli.load_dvae("toy").grid_size == dalle_cli.load_transformer("toy").grid_size
    assert dalle_cli.load_clip("toy-clip").image_size > 0
