"""The search for copies: as four nested loops find them, in any batches."""

import itertools

import numpy as np
import pytest

from dalle_cli.scoring.overlap import copy_search
from dalle_cli.scoring.overlap.copy_search import CopySearch, Overlap, PicturePair

SHAPE = {"P": 2, "W": 5, "V": 3, "E": 32}
N_TEST, N_TRAINING, THRESHOLD = 7, 23, 8.0


def distances(products: np.ndarray) -> np.ndarray:
    return (SHAPE["E"] - products) / 2


@pytest.fixture
def bits() -> tuple[np.ndarray, np.ndarray]:
    """Bits of test pictures [M, P, W, E] and of training pictures [N, P, V, E], as 1 and -1."""
    rng = np.random.default_rng(0)
    parts, windows, views, width = SHAPE.values()
    test = rng.choice([-1, 1], (N_TEST, parts, windows, width)).astype(np.int8)
    training = rng.choice([-1, 1], (N_TRAINING, parts, views, width)).astype(np.int8)
    training[4, 1, 2] = test[3, 1, 0]  # a copy
    training[9, 0, 1] = test[3, 0, 4]  # and another of the same picture
    training[11, 0, 2] = test[5, 1, 2]  # none: these are other parts
    return test, training


def expected_distances(test: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Count the bits that differ, by loops over pictures, parts, windows and views."""
    found = np.full((len(test), len(training)), np.inf)
    for i, j in np.ndindex(found.shape):
        for part in range(SHAPE["P"]):
            pairs = itertools.product(test[i, part], training[j, part])
            found[i, j] = min(found[i, j], *((left != right).sum() for left, right in pairs))
    return found


def search(test: np.ndarray, training: np.ndarray, batch_size: int) -> Overlap:
    found = CopySearch(
        [10 * i for i in range(len(test))], test, distances=distances, threshold=THRESHOLD
    )
    for start in range(0, len(training), batch_size):
        indices = [100 + j for j in range(len(training))][start : start + batch_size]
        found.add(indices, training[start : start + batch_size])
    return found.overlap()


@pytest.mark.parametrize("batch_size", [1, 4, N_TRAINING])
@pytest.mark.parametrize("products", [1, 100, copy_search.PRODUCTS])
def test_search_finds_what_loops_find(
    batch_size: int,
    products: int,
    bits: tuple[np.ndarray, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(copy_search, "PRODUCTS", products)
    table = expected_distances(*bits)
    nearest = {(table[i].min(), 10 * i, 100 + int(table[i].argmin())) for i in range(N_TEST)}
    copies = {
        (table[:, j].min(), 10 * int(table[:, j].argmin()), 100 + j)
        for j in range(N_TRAINING)
        if table[:, j].min() <= THRESHOLD
    }

    overlap = search(*bits, batch_size)
    assert [tuple(pair) for pair in overlap.pairs] == sorted(nearest | copies)
    assert overlap.training == [
        100 + j for j in range(N_TRAINING) if table[:, j].min() <= THRESHOLD
    ]
    assert overlap.test == [10 * i for i in range(N_TEST) if table[i].min() <= THRESHOLD]
    assert {104, 109} <= set(overlap.training) and 30 in overlap.test


def test_all_copies_of_a_picture_are_training_pictures_to_exclude(
    bits: tuple[np.ndarray, np.ndarray],
) -> None:
    pairs = search(*bits, 5).pairs
    assert {(0.0, 30, 104), (0.0, 30, 109)} <= {tuple(pair) for pair in pairs}


@pytest.mark.parametrize("batch_size", [1, 3])
def test_first_of_equally_near_pictures_is_the_nearest(
    batch_size: int, bits: tuple[np.ndarray, np.ndarray]
) -> None:
    test, training = bits
    alike = np.repeat(training[:1], 3, axis=0)
    (pair,) = search(test[:1], alike, batch_size).pairs
    assert pair.distance > THRESHOLD and pair.training == 100


def test_threshold_is_included() -> None:
    pairs = [PicturePair(0.5, 0, 3), PicturePair(1.0, 1, 2), PicturePair(1.5, 2, 1)]
    overlap = Overlap(pairs, threshold=1.0)
    assert (overlap.training, overlap.test) == ([2, 3], [0, 1])
