"""What the tests of `rerank` share.

A few pictures, a cache of its own, the command, and a count of what CLIP sees.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ranked import Rerank

from dalle_cli.models.clip import Clip


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of an empty cache: no test knows what another has embedded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dalle" / "embeddings.sqlite"


@pytest.fixture
def pictures(pairs: Path, tmp_path: Path) -> Path:
    """A folder of seven pictures."""
    (tmp_path / "pictures").mkdir()
    for picture in sorted(pairs.glob("*.png"))[:7]:
        shutil.copy(picture, tmp_path / "pictures")
    return tmp_path / "pictures"


@pytest.fixture
def command(clip_run: Path, fresh_cache: Path, dalle: Callable) -> Callable:
    """Run `rerank` and say how it ended."""

    def run(*words: object, clip: object = clip_run, precision: str = "fp32", **options: bytes):
        return dalle(
            "rerank", *words, "--clip", clip, "--device", "cpu", "--precision", precision, **options
        )

    return run


@pytest.fixture
def rerank(command: Callable) -> Rerank:
    """Rank pictures and give the scores."""

    def run(*words: object, code: int = 0, **options: object) -> list[dict]:
        ended = command(*words, "--json", "--quiet", **options)
        assert ended.code == code, ended.err
        return json.loads(ended.out)["scores"]

    return run


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures went through a CLIP, batch by batch."""
    batches: list[int] = []
    encode_image = Clip.encode_image

    def count(self: Clip, pixels: torch.Tensor) -> torch.Tensor:
        batches.append(len(pixels))
        return encode_image(self, pixels)

    monkeypatch.setattr(Clip, "encode_image", count)
    return batches
