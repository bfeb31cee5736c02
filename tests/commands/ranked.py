"""What pictures should score, by hand, and changes after which they score otherwise."""

import csv
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

from dalle_cli.data.augment import clip_square
from dalle_cli.data.images import decode_image
from dalle_cli.loading import load_clip, load_clip_tokenizer
from dalle_cli.models.clip import PIXEL_MEAN, PIXEL_STD
from dalle_cli.storage.integrity.tensor_files import write_checksummed_tensors

RING, CIRCLE = "a blue ring", "a small red circle at the top left"
COLUMNS = ["caption", "rank", "score", "picture", "file", "problem"]

Rerank = Callable[..., list[dict]]  # the command line to the scores


def cosines(run: Path, files: Iterable[Path], caption: str) -> list[float]:
    """What CLIP says, one picture at a time."""
    clip = load_clip(run)
    tokenizer = load_clip_tokenizer(run, clip)
    text = clip.encode_text(tokenizer([caption], clip.text_len))[0].double()
    found = []
    for file in files:
        square = (
            torch.tensor(clip_square(decode_image(file.read_bytes()), clip.image_size)).permute(
                2, 0, 1
            )
            / 255
        )
        pixels = (square - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(
            3, 1, 1
        )
        found.append(
            float(F.cosine_similarity(clip.encode_image(pixels[None])[0].double(), text, dim=0))
        )
    return found


def check_ranked(scores: list[dict], run: Path, expected: dict[str, list[Path]]) -> None:
    """Compare with the cosines of each caption's pictures: captions in order, best first."""
    assert list(dict.fromkeys(score["caption"] for score in scores)) == list(expected)
    assert all(list(score) == COLUMNS for score in scores)
    for caption, files in expected.items():
        own = [score for score in scores if score["caption"] == caption]
        by_hand = dict(zip(map(str, files), cosines(run, files, caption), strict=True))
        assert sorted(score["picture"] for score in own) == sorted(by_hand)
        assert [score["rank"] for score in own] == list(range(1, len(files) + 1))
        found = [score["score"] for score in own]
        assert found == sorted(found, reverse=True)
        assert found == pytest.approx([by_hand[score["picture"]] for score in own], rel=0, abs=1e-6)


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def read_table(out: Path) -> list[dict]:
    """Read scores.csv back, numbers as numbers and nothing as None."""
    with (out / "scores.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = {"rank": int, "score": float}
    return [
        {key: numbers.get(key, str)(text) if text else None for key, text in row.items()}
        for row in rows
    ]


def changed_clip(run: Path) -> Path:
    """Turn a run's CLIP into another one."""
    weights = load_file(run / "model" / "model.safetensors")
    write_checksummed_tensors(
        run / "model" / "model.safetensors",
        {**weights, "visual.proj": weights["visual.proj"].flip(1)},
    )
    return run


def spoilt_clip(run: Path, weight: str) -> Path:
    """Make one number of a run's CLIP none."""
    weights = load_file(run / "model" / "model.safetensors")
    weights[weight][0, 0] = math.nan
    write_checksummed_tensors(run / "model" / "model.safetensors", weights)
    return run


def change_picture(pictures: Path) -> None:
    Image.new("RGB", (32, 32), "red").save(pictures / "003.png")
