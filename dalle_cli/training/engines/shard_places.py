"""Where the shards of a group's processes are in whole parameters.

Ramesh et al. 2021, appendix E. Knows nothing of how they are gathered and summed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from dalle_cli.runtime.processes.ranks import Ranks


@dataclass(frozen=True)
class ShardPlace:
    """Where in a whole tensor a process's shard is: `length` rows, or columns, from `start` on."""

    dim: int
    start: int
    length: int

    def of(self, whole: Tensor) -> Tensor:
        """Return the shard of a whole tensor, as a view."""
        return whole.narrow(self.dim, self.start, self.length)


def place_of(shape: Sequence[int], ranks: Ranks, *, is_matrix: bool) -> ShardPlace:
    """Return the place of a process's shard, given its rank in its group.

    As in the paper, a matrix is cut along its outputs, but the second one of an MLP along its
    inputs: always along the longer side. FSDP2 cuts columns evenly only; of rows that can't be
    divided evenly, the last processes have fewer, or none.
    """
    is_wide = is_matrix and shape[1] > shape[0] and shape[1] % ranks.size == 0
    dim = 1 if is_wide else 0
    n_each = -(-shape[dim] // ranks.size)
    start = min(ranks.rank * n_each, shape[dim])
    return ShardPlace(dim, start, min(n_each, shape[dim] - start))


def matrix_shards(matrices: Iterable[Tensor], size: int) -> list[tuple[int, int]]:
    """Return the shapes of a process's shards of matrices, the largest where they are uneven."""
    shapes = []
    for matrix in matrices:
        place = place_of(matrix.shape, Ranks(0, size), is_matrix=True)
        rows, columns = matrix.shape
        cut = (rows, place.length) if place.dim else (place.length, columns)
        shapes.append(cut)
    return shapes
