"""Embedding files: as by hand in any batches, in order, each picture once, damage told apart."""

import hashlib
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dalle_cli.data.augment import clip_square
from dalle_cli.data.clip_tokenizer import ClipTokenizer
from dalle_cli.data.images import decode_image
from dalle_cli.models.clip import Clip, Tower
from dalle_cli.runtime.distributed import single_process
from dalle_cli.scoring.clip_scorer import ClipScorer
from dalle_cli.scoring.embedding_cache import EmbeddingCache
from dalle_cli.scoring.embeddings import Embedded, checksum_of, embed_files, prefetch

WIDTH = 8
ALONE = single_process(torch.device("cpu"))
PIXEL_MEAN, PIXEL_STD = (0.1, 0.5, 0.7), (0.2, 0.3, 0.4)


class CountingClip(Clip):
    """Remembers how many pictures it was given at a time; may refuse after some."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        tower = Tower(1, 16, 2, 32)
        super().__init__(
            16,
            8,
            8,
            20,
            WIDTH,
            "quick_gelu",
            tower,
            tower,
            pixel_mean=PIXEL_MEAN,
            pixel_std=PIXEL_STD,
        )
        self.requires_grad_(False)
        self.batches: list[int] = []
        self.refuses_after = 10**6

    def encode_image(self, pixels: Tensor) -> Tensor:
        if len(self.batches) == self.refuses_after:
            raise KeyboardInterrupt
        self.batches.append(len(pixels))
        return super().encode_image(pixels)


@pytest.fixture
def scorer() -> ClipScorer:
    return ClipScorer(
        CountingClip(),
        ClipTokenizer(lambda caption: [len(caption)], 18, 19, 20),
        torch.device("cpu"),
    )


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache(tmp_path / "cache.sqlite", "model", WIDTH)


@pytest.fixture
def pictures(pairs: Path) -> list[Path]:
    return sorted(pairs.glob("*.png"))[:7]


@pytest.fixture
def files(pictures: list[Path], tmp_path: Path) -> list[Path]:
    """Seven pictures in no order of names, two of them twice, among files that are no pictures."""
    (tmp_path / "copy.jpg").write_bytes(pictures[5].read_bytes())
    (tmp_path / "cut.png").write_bytes(pictures[0].read_bytes()[:-40])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "same text.png").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    bad = [
        tmp_path / name
        for name in (
            "cut.png",
            "absent.png",
            "empty.png",
            "text.png",
            "folder.png",
            "same text.png",
        )
    ]
    return [
        *bad[:2],
        *reversed(pictures),
        bad[2],
        pictures[5],
        tmp_path / "copy.jpg",
        *bad[3:],
        tmp_path / "a\0b.png",
    ]


PROBLEMS = {
    "cut.png": "damaged or incomplete picture",
    "absent.png": "No such file or directory",
    "empty.png": "empty picture file",
    "text.png": "not a JPEG, PNG, WebP or GIF picture",
    "same text.png": "not a JPEG, PNG, WebP or GIF picture",
    "folder.png": "not a file, but a folder, a pipe or a device",
    "a\0b.png": "embedded null byte",
}


def by_hand(clip: Clip, file: Path) -> np.ndarray:
    """One picture, alone, by the formula."""
    square = (
        torch.tensor(clip_square(decode_image(file.read_bytes()), 16), dtype=torch.float64).permute(
            2, 0, 1
        )
        / 255
    )
    pixels = (square - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(
        3, 1, 1
    )
    embedding = clip.visual(pixels[None].float())[0]
    return (embedding / embedding.square().sum().sqrt()).numpy()


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_results_are_those_by_hand_in_the_order_of_the_files_in_batches_of_any_size(
    batch_size: int, files: list[Path], scorer: ClipScorer, cache: EmbeddingCache
) -> None:
    counted = []
    found = embed_files(
        files,
        scorer,
        cache=cache,
        batch_size=batch_size,
        advance=lambda: counted.append(1),
        world=ALONE,
    )
    assert len(found) == len(files) == len(counted)
    for file, one in zip(files, found, strict=True):
        assert one.problem == PROBLEMS.get(file.name)
        if one.problem is None:
            assert one.embedding.dtype == np.float32
            np.testing.assert_allclose(one.embedding, by_hand(scorer.clip, file), rtol=0, atol=1e-6)
        else:
            assert one.embedding is None


def test_equal_pictures_are_embedded_once_and_have_one_checksum(
    files: list[Path], scorer: ClipScorer, cache: EmbeddingCache
) -> None:
    found = dict(
        zip(
            files,
            embed_files(
                files, scorer, cache=cache, batch_size=4, advance=lambda: None, world=ALONE
            ),
            strict=True,
        )
    )
    assert sum(scorer.clip.batches) == 7
    checksums = {file.name: one.checksum for file, one in found.items()}
    assert (
        checksums["copy.jpg"] == checksums["005.png"]
        and checksums["text.png"] == checksums["same text.png"]
    )
    assert len(set(checksums.values()) - {""}) == 7 + 3


def test_pictures_are_embedded_in_batches(
    pictures: list[Path], scorer: ClipScorer, cache: EmbeddingCache
) -> None:
    embed_files(pictures, scorer, cache=cache, batch_size=3, advance=lambda: None, world=ALONE)
    assert scorer.clip.batches == [3, 3, 1]


def test_known_pictures_are_not_embedded_again_and_give_the_same_bits(
    files: list[Path], scorer: ClipScorer, cache: EmbeddingCache
) -> None:
    first = embed_files(files, scorer, cache=cache, batch_size=4, advance=lambda: None, world=ALONE)
    scorer.clip.refuses_after = 0
    counted = []
    again = embed_files(
        files[::-1],
        scorer,
        cache=cache,
        batch_size=2,
        advance=lambda: counted.append(1),
        world=ALONE,
    )
    assert len(counted) == len(files)
    assert [summary(one) for one in again] == [summary(one) for one in reversed(first)]


def summary(one: Embedded) -> tuple[str, bytes | None, str | None]:
    return one.checksum, None if one.embedding is None else one.embedding.tobytes(), one.problem


def test_interrupted_run_keeps_what_it_had_embedded(
    pictures: list[Path], scorer: ClipScorer, cache: EmbeddingCache
) -> None:
    scorer.clip.refuses_after = 2
    with pytest.raises(KeyboardInterrupt):
        embed_files(pictures, scorer, cache=cache, batch_size=2, advance=lambda: None, world=ALONE)
    scorer.clip.batches.clear()
    assert (
        len(
            embed_files(
                pictures, scorer, cache=cache, batch_size=2, advance=lambda: None, world=ALONE
            )
        )
        == 7
    )
    assert scorer.clip.batches == [2, 1]


def test_cache_that_fails_changes_no_result(
    files: list[Path], scorer: ClipScorer, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    broken = EmbeddingCache(tmp_path / "file" / "cache.sqlite", "model", WIDTH)
    found = embed_files(
        files, scorer, cache=broken, batch_size=3, advance=lambda: None, world=ALONE
    )
    assert broken.problem is not None
    sound = EmbeddingCache(tmp_path / "cache.sqlite", "model", WIDTH)
    assert [summary(one) for one in found] == [
        summary(one)
        for one in embed_files(
            files, scorer, cache=sound, batch_size=3, advance=lambda: None, world=ALONE
        )
    ]


@pytest.mark.parametrize("name", ["pipe.png", "/dev/zero"])
def test_pipe_and_device_are_not_read(name: str, tmp_path: Path, hang_guard: None) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert checksum_of(tmp_path / name) == Embedded(
        "", problem="not a file, but a folder, a pipe or a device"
    )


def test_picture_that_changes_while_it_is_read_is_told_and_not_kept_under_its_first_checksum(
    pictures: list[Path], scorer: ClipScorer, tmp_path: Path
) -> None:
    class LateCache(EmbeddingCache):
        """Looked into when all files are hashed; then another program writes into one."""

        def find(self, pictures: Iterable[str]) -> dict[str, np.ndarray]:
            changing.write_bytes(second)
            return super().find(pictures)

    first, second = pictures[0].read_bytes(), pictures[1].read_bytes()
    changing = tmp_path / "changing.png"
    changing.write_bytes(first)
    checksum = hashlib.sha256(first).hexdigest()
    steady, changed = embed_files(
        [pictures[2], changing],
        scorer,
        cache=LateCache(tmp_path / "late.sqlite", "model", WIDTH),
        batch_size=2,
        advance=lambda: None,
        world=ALONE,
    )
    assert steady.problem is None and summary(changed) == (
        checksum,
        None,
        "changed while it was read",
    )
    kept = EmbeddingCache(tmp_path / "late.sqlite", "model", WIDTH)
    assert list(kept.find([checksum, hashlib.sha256(second).hexdigest(), steady.checksum])) == [
        steady.checksum
    ]


def test_no_files_give_nothing(scorer: ClipScorer, cache: EmbeddingCache) -> None:
    assert (
        embed_files([], scorer, cache=cache, batch_size=3, advance=lambda: None, world=ALONE) == []
    )
    assert scorer.clip.batches == []


def halves(x: int) -> float:
    return x / 2


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 9])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_ahead_gives_answers_in_order_in_whole_batches(n: int, size: int) -> None:
    with ThreadPoolExecutor(4) as pool:
        batches = list(prefetch(halves, list(range(n)), pool=pool, batch_size=size))
    assert [len(batch) for batch in batches] == [
        min(size, n - start) for start in range(0, n, size)
    ]
    assert [answer for batch in batches for answer in batch] == [x / 2 for x in range(n)]


def test_ahead_works_on_the_next_batch_and_no_further(hang_guard: None) -> None:
    started = [threading.Event() for _ in range(9)]
    with ThreadPoolExecutor(1) as pool:
        batches = prefetch(lambda x: started[x].set(), list(range(9)), pool=pool, batch_size=2)
        assert not any(event.is_set() for event in started)
        for end in (4, 6, 8, 9, 9):
            next(batches)
            for event in started[:end]:
                event.wait()
            pool.submit(
                int
            ).result()  # whatever else was asked for would have been begun before this
            assert not any(event.is_set() for event in started[end:])


def test_ahead_does_not_wait_for_the_next_batch() -> None:
    released = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        batches = prefetch(
            lambda x: x < 2 or released.wait(5), list(range(4)), pool=pool, batch_size=2
        )
        assert next(batches) == [True, True]
        released.set()
        assert next(batches) == [True, True]
