"""Perceptual hashes: every crop has a window near it, and planted copies are found."""

import io
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from dalle_cli.errors import DalleError
from dalle_cli.scoring.overlap.copy_search import CopySearch
from dalle_cli.scoring.overlap.perceptual_hash import (
    BITS,
    MIDDLE,
    MIDDLES,
    STEPS,
    THRESHOLD,
    WINDOWS,
    HashDescriptor,
)

SIDE = 96


@given(margin=st.floats(0, 0.2), share=st.floats(0, 1))
def test_a_window_is_near_every_crop_that_keeps_four_fifths(margin: float, share: float) -> None:
    crop = margin * share, 1 - margin * (1 - share)
    off = [max(abs(start - crop[0]), abs(end - crop[1])) for start, end in WINDOWS]
    assert min(off) <= 1 / (2 * STEPS) + 1e-9


def test_middle_is_found_where_each_crop_has_it() -> None:
    assert len(MIDDLES) == len(WINDOWS) == 15
    for (start, end), (low, high) in zip(WINDOWS, MIDDLES, strict=True):
        assert 0 <= low < high <= 1
        side = end - start
        assert (start + side * low, start + side * high) == pytest.approx(MIDDLE, abs=1e-12)


def natural(rng: np.random.Generator) -> Image.Image:
    """Render noise as photographs have it: the coarser, the stronger."""
    levels = np.zeros((SIDE, SIDE, 3))
    for cells in (2, 4, 8, 16, 32):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        levels += np.asarray(noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) / cells
    levels = (levels - levels.min()) / (levels.max() - levels.min())
    return Image.fromarray((255 * levels).astype(np.uint8))


def cropped(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Cut up to a fifth of each side off, anywhere."""
    edges = []
    for side in picture.size:
        margin = rng.uniform(0, 0.2)
        start = rng.uniform(0, margin)
        edges.append((round(side * start), round(side * (1 - margin + start))))
    (left, right), (top, bottom) = edges
    return picture.crop((left, top, right, bottom))


def encoded(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    larger = picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.BICUBIC)
    larger.save(file, "JPEG", quality=int(rng.integers(30, 90)))
    return Image.open(file).convert("RGB")


def mirrored(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.mirror(picture)


def all_at_once(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return mirrored(encoded(cropped(picture, rng), rng), rng)


@pytest.fixture(scope="module")
def descriptor() -> HashDescriptor:
    pytest.importorskip("imagehash", reason="its library is an extra")
    return HashDescriptor()


def found_by(
    descriptor: HashDescriptor, test: list[Image.Image], training: list[Image.Image]
) -> CopySearch:
    views = [descriptor.test_views(picture) for picture in test]
    search = CopySearch(
        range(len(test)),
        descriptor.vectors(views),
        distances=descriptor.distances,
        threshold=descriptor.threshold,
    )
    others = [descriptor.training_views(picture) for picture in training]
    search.add(range(len(training)), descriptor.vectors(others))
    return search


@pytest.mark.thorough
@pytest.mark.parametrize("plant", [cropped, encoded, mirrored, all_at_once])
@pytest.mark.parametrize("in_training", [True, False])
def test_planted_copies_are_found_and_nothing_else(
    plant: Callable, in_training: bool, descriptor: HashDescriptor
) -> None:
    """Whichever of the two is the original."""
    rng = np.random.default_rng(0)
    originals = [natural(rng) for _ in range(4)]
    copies = [plant(picture, rng) for picture in originals]
    test, training = (originals, copies) if in_training else (copies, originals)
    training = [*training, *(natural(rng) for _ in range(16))]
    overlap = found_by(descriptor, [*test, natural(rng), natural(rng)], training).overlap()
    assert overlap.test == overlap.training == [0, 1, 2, 3]
    assert {(pair.test, pair.training) for pair in overlap.copies} == {(i, i) for i in range(4)}


def test_distance_counts_bits(descriptor: HashDescriptor) -> None:
    rng = np.random.default_rng(1)
    one, other = (descriptor.training_views(natural(rng))[0, 0] for _ in range(2))
    assert one.shape == (BITS,) and set(np.unique(one)) == {-1, 1}
    products = np.array([one.astype(int) @ one, one.astype(int) @ other])
    assert descriptor.distances(products).tolist() == [0, (one != other).sum()]


def test_same_picture_has_no_distance(descriptor: HashDescriptor) -> None:
    picture = natural(np.random.default_rng(2))
    (pair,) = found_by(descriptor, [picture], [picture]).overlap().pairs
    assert pair == (0, 0, 0) and descriptor.threshold == THRESHOLD


def test_missing_library_is_told_with_two_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(DalleError, match="imagehash is missing") as failure:
        HashDescriptor()
    assert "`pip install imagehash`" in failure.value.hint and "--clip" in failure.value.hint
