"""Distances between two sets of pictures, by their features: pure arithmetic in float64.

The Fréchet distance (Heusel et al. 2017), the Inception Score (Salimans et al. 2016), precision and
recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020). Knows nothing of
pictures, nor of the network that features come from. Axes:

    N M pictures of two sets    D width of a feature    C classes    B batch
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

NEIGHBOURS = 5  # Naeem et al. 2020
SCORE_PARTS = 10  # Salimans et al. 2016
SHUFFLE_SEED = 2020  # of the parts, as torch-fidelity has it
ROWS_AT_ONCE = 1024  # of a matrix of distances
ROUNDING = 1e-12  # of the squared lengths of two features, below which they are the same


class FeatureMoments:
    """The mean and the covariance of features that come in batches."""

    def __init__(self, width: int) -> None:
        self.n = 0
        self._sum = np.zeros(width)
        self._products = np.zeros((width, width))

    def add(self, features: np.ndarray) -> None:
        """Count the features [B, D] of a batch."""
        batch = features.astype(np.float64)
        self.n += len(batch)
        self._sum += batch.sum(axis=0)
        self._products += batch.T @ batch

    @property
    def mean(self) -> np.ndarray:
        """The mean of all features: [D]."""
        return self._sum / self.n

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased covariance of at least two features: [D, D]."""
        products = self._products - self.n * np.outer(self.mean, self.mean)
        return products / (self.n - 1)


def moments_of(features: np.ndarray) -> FeatureMoments:
    """Return the moments of features [N, D]."""
    moments = FeatureMoments(features.shape[1])
    moments.add(features)
    return moments


def frechet_distance(real: FeatureMoments, generated: FeatureMoments) -> float:
    """Compute the squared Fréchet distance of two Gaussians: that of FID, Heusel et al. 2017.

    It is |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)). The eigenvalues of S S' are those of R S' R,
    where R is the symmetric root of S, so that no root of an unsymmetric matrix is needed.
    """
    gap = real.mean - generated.mean
    first, second = real.covariance, generated.covariance

    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T  # [D, D]
    overlap = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(min=0)).sum()

    distance = gap @ gap + np.trace(first) + np.trace(second) - 2 * overlap
    return max(float(distance), 0.0)


class ScoreSpread(NamedTuple):
    """The mean and the standard deviation of a score over parts of the pictures."""

    mean: float
    std: float


def inception_score(logits: np.ndarray) -> ScoreSpread:
    """Compute exp(E KL(p(class | picture) || p(class))) of ten parts of the pictures.

    logits  [N, C]

    The parts are those of torch-fidelity: equal shares of the shuffled pictures.
    """
    n = len(logits)
    order = np.random.RandomState(SHUFFLE_SEED).permutation(n)
    shuffled = logits[order].astype(np.float64)
    log_p = shuffled - np.logaddexp.reduce(shuffled, axis=1)[:, None]  # [N, C]

    n_parts = min(SCORE_PARTS, n)
    edges = [i * n // n_parts for i in range(n_parts + 1)]
    scores = []
    for start, end in pairwise(edges):
        part = log_p[start:end]
        marginal = np.logaddexp.reduce(part, axis=0) - np.log(end - start)  # [C]
        divergences = (np.exp(part) * (part - marginal)).sum(axis=1)
        scores.append(np.exp(divergences.mean()))
    return ScoreSpread(float(np.mean(scores)), float(np.std(scores)))


class Neighbourhoods(NamedTuple):
    """How far two sets of pictures cover one another; see `compare_neighbourhoods`."""

    precision: float
    recall: float
    density: float
    coverage: float


def compare_neighbourhoods(
    real: np.ndarray, generated: np.ndarray, k: int = NEIGHBOURS
) -> Neighbourhoods:
    """Compare features by balls that reach from each picture to the k-th nearest of its set.

    real       [N, D], N at least 2
    generated  [M, D], M at least 2

    Precision is the share of generated pictures inside a ball of a real one, recall the reverse.
    Density counts the real balls around a generated picture, divided by k; coverage is the share of
    real balls that hold a generated picture. In a small set, k is at most the number of others.
    """
    k_real, k_generated = min(k, len(real) - 1), min(k, len(generated) - 1)
    real_reach = _reach(real, k_real)  # [N]
    generated_reach = _reach(generated, k_generated)  # [M]
    is_real_found = np.zeros(len(real), bool)
    is_covered = np.zeros(len(real), bool)
    n_precise = n_around = 0

    for rows in _blocks(len(generated)):
        squared = squared_distances(generated[rows], real)  # [B, N]
        is_inside = squared <= real_reach
        n_precise += int(is_inside.any(axis=1).sum())
        n_around += int(is_inside.sum())
        is_covered |= is_inside.any(axis=0)
        is_real_found |= (squared <= generated_reach[rows, None]).any(axis=0)

    return Neighbourhoods(
        precision=n_precise / len(generated),
        recall=float(is_real_found.mean()),
        density=n_around / (k_real * len(generated)),
        coverage=float(is_covered.mean()),
    )


def _reach(features: np.ndarray, k: int) -> np.ndarray:
    """Return the squared distance from each feature [N, D] to the k-th nearest other: [N]."""
    parts = [
        # the nearest of all is the picture itself
        np.partition(squared_distances(features[rows], features), k, axis=1)[:, k]
        for rows in _blocks(len(features))
    ]
    return np.concatenate(parts)


def squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute the squared distance of each pair of features [N, D] and [M, D]: [N, M].

    The distance of equal features is exactly 0.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    lengths = _squared_lengths(a)[:, None] + _squared_lengths(b)  # [N, M]
    squared = lengths - 2 * (a @ b.T)
    squared[squared < ROUNDING * lengths] = 0.0
    return squared


def _squared_lengths(features: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", features, features)


def distances_within(features: np.ndarray) -> np.ndarray:
    """Return the squared distances of all pairs among features [N, D]: [N (N - 1) / 2]."""
    return squared_distances(features, features)[np.triu_indices(len(features), 1)]


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, start + ROWS_AT_ONCE) for start in range(0, n, ROWS_AT_ONCE))
