"""`rerank` and cached embeddings: never computed anew, never another CLIP's, never in the way."""

import json
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ranked import (
    CIRCLE,
    RING,
    Rerank,
    change_picture,
    changed_clip,
    check_ranked,
    files_of,
    spoilt_clip,
)

from dalle_cli.models.clip import Clip
from dalle_cli.scoring import clip_scorer


def test_second_caption_embeds_no_picture_again(
    pictures: Path, clip_run: Path, rerank: Rerank, embedded: list[int]
) -> None:
    rerank(pictures, RING)
    assert sum(embedded) == 7
    embedded.clear()
    scores = rerank(pictures, CIRCLE)
    assert embedded == []
    check_ranked(scores, clip_run, {CIRCLE: files_of(pictures)})


def test_picture_is_known_by_its_content(
    pictures: Path, tmp_path: Path, rerank: Rerank, embedded: list[int], clip_run: Path
) -> None:
    before = rerank(pictures, RING)
    embedded.clear()
    moved = tmp_path / "moved"
    pictures.rename(moved)
    (moved / "000.png").rename(moved / "zero.PNG")
    after = rerank(moved, RING)
    assert embedded == [] and [s["score"] for s in after] == [s["score"] for s in before]
    change_picture(moved)
    check_ranked(rerank(moved, RING), clip_run, {RING: files_of(moved)})
    assert embedded[0] == 1


def test_embeddings_of_another_clip_or_precision_are_not_taken(
    pictures: Path, own_clip_run: Path, rerank: Rerank, embedded: list[int]
) -> None:
    rerank(pictures, RING)
    embedded.clear()
    rerank(pictures, RING, clip=own_clip_run)  # the same CLIP elsewhere
    assert embedded == []
    rerank(pictures, RING, precision="bf16")
    assert sum(embedded) == 7
    embedded.clear()
    scores = rerank(pictures, RING, clip=changed_clip(own_clip_run))
    assert sum(embedded) == 7
    check_ranked(scores, own_clip_run, {RING: files_of(pictures)})


@pytest.mark.parametrize("version", ["CLIP_SQUARE_VERSION", "DECODING_VERSION"])
def test_pictures_read_or_cut_in_another_way_are_not_taken(
    version: str,
    pictures: Path,
    rerank: Rerank,
    embedded: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rerank(pictures, RING)
    embedded.clear()
    monkeypatch.setattr(clip_scorer, version, -1)
    rerank(pictures, RING)
    assert sum(embedded) == 7


@pytest.mark.parametrize(
    "value", ["'a text of as many characters as bytes'", "x'00000000'", "zeroblob(10000)", "3.5"]
)
def test_what_is_no_embedding_of_this_clip_is_computed_anew(
    value: str,
    pictures: Path,
    fresh_cache: Path,
    clip_run: Path,
    rerank: Rerank,
    embedded: list[int],
) -> None:
    rerank(pictures, RING)
    with sqlite3.connect(fresh_cache) as connection:
        connection.execute(f"UPDATE embeddings SET embedding = {value}")
    connection.close()
    embedded.clear()
    check_ranked(rerank(pictures, RING), clip_run, {RING: files_of(pictures)})
    embedded_anew = embedded[0]
    embedded.clear()
    rerank(pictures, CIRCLE)
    assert embedded_anew == 7 and embedded == []


def test_embeddings_that_are_no_numbers_are_not_kept(
    pictures: Path, own_clip_run: Path, fresh_cache: Path, command: Callable
) -> None:
    assert command(pictures, RING, clip=spoilt_clip(own_clip_run, "visual.proj")).code == 1
    connection = sqlite3.connect(fresh_cache)
    assert connection.execute("SELECT * FROM embeddings").fetchall() == []
    connection.close()


def test_broken_cache_is_told_and_changes_no_score(
    pictures: Path, fresh_cache: Path, clip_run: Path, command: Callable
) -> None:
    fresh_cache.parent.mkdir(parents=True)
    fresh_cache.write_text("not a database" * 100)
    ended = command(pictures, RING, "--json", "--quiet")
    assert ended.code == 0 and ended.err.startswith("warning: embeddings are not cached: ")
    assert str(fresh_cache.parent) in ended.err and len(ended.err.splitlines()) == 1
    check_ranked(json.loads(ended.out)["scores"], clip_run, {RING: files_of(pictures)})


def test_interrupted_command_keeps_what_it_had_embedded(
    pictures: Path,
    tmp_path: Path,
    clip_run: Path,
    command: Callable,
    rerank: Rerank,
    embedded: list[int],
) -> None:
    counting = Clip.encode_image

    def stop(self: Clip, pixels: torch.Tensor) -> torch.Tensor:
        if embedded:
            signal.raise_signal(signal.SIGINT)
        return counting(self, pixels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Clip, "encode_image", stop)
        ended = command(pictures, RING, "--batch-size", 3, "--out", tmp_path / "best")
    assert ended.code == 130 and ended.out == "" and not (tmp_path / "best").exists()
    embedded.clear()
    scores = rerank(pictures, RING)
    assert sum(embedded) == 4
    check_ranked(scores, clip_run, {RING: files_of(pictures)})
