"""The nearest pictures of two data sets: the test set at once, the training set as it comes.

Exhaustive and exact: every picture of one set is compared with every one of the other. What is kept
grows with the numbers of pictures, not with that of pairs. Axes, besides those of `descriptors`:
M pictures of the test set.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

PRODUCTS = 2**22  # computed at once: 16 MiB


class PicturePair(NamedTuple):
    """A picture of each set, by their numbers, and how far they are from one another."""

    distance: float
    test: int
    training: int


@dataclass(frozen=True)
class Overlap:
    """The pairs that matter, nearest first: of each test picture with the nearest training picture,
    and of each training picture that is within the threshold with the nearest test picture."""

    pairs: list[PicturePair]
    threshold: float

    @property
    def copies(self) -> list[PicturePair]:
        """The pairs within the threshold."""
        return [pair for pair in self.pairs if pair.distance <= self.threshold]

    @property
    def training(self) -> list[int]:
        """The training pictures within the threshold of a test picture, ascending."""
        return sorted({pair.training for pair in self.copies})

    @property
    def test(self) -> list[int]:
        """The test pictures within the threshold of a training picture, ascending."""
        return sorted({pair.test for pair in self.copies})


class CopySearch:
    """Compares a test set with a training set that comes in batches."""

    def __init__(
        self,
        indices: Sequence[int],
        vectors: np.ndarray,
        *,
        distances: Callable[[np.ndarray], np.ndarray],
        threshold: float,
    ) -> None:
        """Prepare to find copies of test pictures.

        indices    their numbers
        vectors    [M, P, W, E]
        distances  turns inner products into distances, see `Descriptor`
        threshold  up to which pictures count as copies
        """
        self._indices = np.asarray(indices)  # [M]
        self._vectors = vectors
        self._distances = distances
        self._threshold = threshold
        self._nearest = np.full(len(indices), -1)  # number of the nearest training picture, [M]
        self._distance = np.full(len(indices), np.inf)  # and how far it is, [M]
        self._copies: list[PicturePair] = []

    def add(self, indices: Sequence[int], vectors: np.ndarray) -> None:
        """Compare a batch of training pictures, vectors [B, P, V, E], with all of the test set."""
        distances = self._compare(vectors)  # [M, B]

        nearest = distances.argmin(axis=1)  # [M]
        found = distances[np.arange(len(nearest)), nearest]  # [M]
        is_nearer = found < self._distance
        self._distance[is_nearer] = found[is_nearer]
        self._nearest[is_nearer] = np.asarray(indices)[nearest[is_nearer]]

        closest = distances.argmin(axis=0)  # [B]
        found = distances[closest, np.arange(len(closest))]  # [B]
        for i in np.flatnonzero(found <= self._threshold):
            test = int(self._indices[closest[i]])
            self._copies.append(PicturePair(float(found[i]), test, int(indices[i])))

    def overlap(self) -> Overlap:
        """Return what was found in all batches; each test picture has a pair, if there were any."""
        nearest = {
            PicturePair(float(distance), int(test), int(training))
            for distance, test, training in zip(
                self._distance, self._indices, self._nearest, strict=True
            )
            if training >= 0
        }
        return Overlap(sorted(nearest.union(self._copies)), self._threshold)

    def _compare(self, training: np.ndarray) -> np.ndarray:
        """Compute the distance of every test picture to every training picture: [M, B]."""
        n_windows, n_views = self._vectors.shape[2], len(training) * training.shape[2]
        n_together = max(PRODUCTS // (n_windows * n_views), 1)
        starts = range(0, len(self._vectors), n_together)
        blocks = [self._vectors[start : start + n_together] for start in starts]
        return np.concatenate([self._distances(_best_products(b, training)) for b in blocks])


def _best_products(test: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Return the largest product of any window and any view of the same part.

    test      [M, P, W, E]
    training  [B, P, V, E]
    returns   float32 [M, B]
    """
    best = np.full((len(test), len(training)), -np.inf, np.float32)
    for part in range(test.shape[1]):
        windows = test[:, part].reshape(-1, test.shape[-1]).astype(np.float32)  # [M * W, E]
        views = training[:, part].reshape(-1, training.shape[-1]).astype(np.float32)  # [B * V, E]
        products = windows @ views.T  # [M * W, B * V]
        products = products.reshape(len(test), test.shape[2], len(training), -1)  # [M, W, B, V]
        best = np.maximum(best, products.max(axis=(1, 3)))
    return best
