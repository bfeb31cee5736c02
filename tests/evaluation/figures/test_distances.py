"""Distances between sets of features, against plain statements of their definitions."""

import math

import numpy as np
import pytest

from dalle_cli.evaluation.figures import distances
from dalle_cli.evaluation.figures.distances import (
    FeatureMoments,
    compare_neighbourhoods,
    distances_within,
    frechet_distance,
    inception_score,
    moments_of,
    squared_distances,
)

EXACT = 1e-6  # relative


def features(n: int, width: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Correlated features in fp32, as networks return them, that are never negative."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((n, width)) @ rng.standard_normal((width, width))
    return np.maximum(mixed + shift, 0).astype(np.float32)


def frechet_by_hand(a: np.ndarray, b: np.ndarray) -> float:
    """The definition, with the eigenvalues of the unsymmetric product."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(first @ second).astype(complex)).real
    gap = a.mean(axis=0) - b.mean(axis=0)
    return float(gap @ gap + np.trace(first) + np.trace(second) - 2 * roots.sum())


@pytest.mark.parametrize(("n", "m", "width"), [(400, 300, 16), (90, 400, 24), (2000, 2000, 8)])
def test_frechet_distance_is_that_of_its_definition(n: int, m: int, width: int) -> None:
    real, generated = features(n, width, 0), features(m, width, 1, shift=0.5)
    found = frechet_distance(moments_of(real), moments_of(generated))
    assert found == pytest.approx(frechet_by_hand(real, generated), rel=EXACT)


def test_frechet_distance_matches_scipys_matrix_root() -> None:
    scipy_linalg = pytest.importorskip("scipy.linalg")
    real, generated = features(500, 12, 2), features(400, 12, 3)
    first, second = (np.cov(x.astype(np.float64), rowvar=False) for x in (real, generated))
    gap = real.astype(np.float64).mean(axis=0) - generated.astype(np.float64).mean(axis=0)
    root = scipy_linalg.sqrtm(first @ second).real
    expected = gap @ gap + np.trace(first + second - 2 * root)
    found = frechet_distance(moments_of(real), moments_of(generated))
    assert found == pytest.approx(expected, rel=EXACT)


def test_frechet_distance_of_equal_sets_is_nothing_and_of_shifted_ones_the_shift() -> None:
    real = features(300, 10, 4).astype(np.float64)
    assert frechet_distance(moments_of(real), moments_of(real)) == pytest.approx(0, abs=1e-6)
    shifted = real + np.linspace(0, 1, 10)
    expected = float((np.linspace(0, 1, 10) ** 2).sum())
    found = frechet_distance(moments_of(real), moments_of(shifted))
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_frechet_distance_of_fewer_pictures_than_dimensions_is_finite() -> None:
    real, generated = features(6, 40, 5), features(9, 40, 6)
    found = frechet_distance(moments_of(real), moments_of(generated))
    assert found == pytest.approx(frechet_by_hand(real, generated), rel=1e-4)


def test_moments_in_batches_are_those_of_all() -> None:
    everything = features(101, 7, 7, shift=3)
    moments = FeatureMoments(7)
    for batch in np.array_split(everything, 9):
        moments.add(batch)
    exact = everything.astype(np.float64)
    np.testing.assert_allclose(moments.mean, exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(exact, rowvar=False), rtol=1e-9)


def score_by_hand(logits: np.ndarray) -> tuple[float, float]:
    """The parts of torch-fidelity, picture by picture."""
    n, shuffled = len(logits), logits[np.random.RandomState(2020).permutation(len(logits))]
    p = [[math.exp(x) for x in row] for row in shuffled.astype(float).tolist()]
    p = [[x / sum(row) for x in row] for row in p]
    scores = []
    for i in range(10):
        part = p[i * n // 10 : (i + 1) * n // 10]
        marginal = [sum(column) / len(part) for column in zip(*part, strict=True)]
        kl = [
            sum(x * (math.log(x) - math.log(q)) for x, q in zip(row, marginal, strict=True))
            for row in part
        ]
        scores.append(math.exp(sum(kl) / len(kl)))
    mean = sum(scores) / 10
    return mean, math.sqrt(sum((score - mean) ** 2 for score in scores) / 10)


def test_inception_score_is_that_of_its_definition() -> None:
    logits = 3 * np.random.default_rng(0).standard_normal((57, 11)).astype(np.float32)
    found = inception_score(logits)
    mean, std = score_by_hand(logits)
    assert found.mean == pytest.approx(mean, rel=EXACT)
    assert found.std == pytest.approx(std, rel=EXACT)


def test_inception_score_of_sure_and_even_classes_is_their_number() -> None:
    logits = np.full((4000, 4), -2000.0)
    logits[np.arange(4000), np.arange(4000) % 4] = 2000.0
    assert inception_score(logits).mean == pytest.approx(4, rel=0.01)
    assert inception_score(np.zeros((20, 5))) == pytest.approx((1, 0), abs=1e-9)


def test_inception_score_of_fewer_pictures_than_parts() -> None:
    logits = np.random.default_rng(1).standard_normal((3, 5))
    assert inception_score(logits) == pytest.approx((1, 0), abs=1e-9)


def neighbourhoods_by_hand(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, ...]:
    """Naeem et al. 2020, equations 1 to 6, by loops."""

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return math.sqrt(sum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True)))

    def reach(points: np.ndarray, i: int) -> float:
        others = [distance(points[i], points[j]) for j in range(len(points)) if j != i]
        return sorted(others)[k - 1]

    of_real = [reach(real, i) for i in range(len(real))]
    of_fake = [reach(fake, j) for j in range(len(fake))]
    near = [[distance(x, y) for y in fake] for x in real]
    n, m = len(real), len(fake)
    precision = sum(any(near[i][j] <= of_real[i] for i in range(n)) for j in range(m)) / m
    recall = sum(any(near[i][j] <= of_fake[j] for j in range(m)) for i in range(n)) / n
    density = sum(near[i][j] <= of_real[i] for i in range(n) for j in range(m)) / (k * m)
    coverage = sum(any(near[i][j] <= of_real[i] for j in range(m)) for i in range(n)) / n
    return precision, recall, density, coverage


@pytest.mark.parametrize("rows_at_once", [1, 7, 1024])
@pytest.mark.parametrize("k", [1, 5])
def test_neighbourhoods_are_those_of_their_definitions(
    k: int, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distances, "ROWS_AT_ONCE", rows_at_once)
    rng = np.random.default_rng(k)
    real, fake = rng.standard_normal((31, 4)), 0.7 * rng.standard_normal((23, 4)) + 0.4
    found = compare_neighbourhoods(real, fake, k)
    assert found == pytest.approx(neighbourhoods_by_hand(real, fake, k), rel=EXACT)
    assert found.precision > 0 and 0 < found.recall < 1


def test_set_covers_itself_and_not_one_that_is_far_away() -> None:
    points = np.random.default_rng(0).standard_normal((40, 6))
    same = compare_neighbourhoods(points, points)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert compare_neighbourhoods(points, points + 100) == (0, 0, 0, 0)


def test_copies_of_one_picture_lie_inside_one_another() -> None:
    copies = np.tile(np.random.default_rng(0).standard_normal(8), (9, 1))
    assert compare_neighbourhoods(copies, copies)[:2] == (1, 1)


def test_two_pictures_have_one_neighbour() -> None:
    points = np.array([[0.0], [1.0]])
    assert compare_neighbourhoods(points, points + 0.5).precision == 1


def test_squared_distances_are_exact_where_features_are_equal() -> None:
    points = np.random.default_rng(3).standard_normal((50, 300)).astype(np.float32)
    found = squared_distances(points, points[::-1])
    assert (np.diag(found[:, ::-1]) == 0).all()
    expected = ((points[:, None].astype(float) - points[None, ::-1]) ** 2).sum(axis=2)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_distances_within_a_set_count_each_pair_once() -> None:
    points = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    assert sorted(distances_within(points)) == [1, 18, 25]
