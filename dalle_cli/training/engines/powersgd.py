"""Low-rank compression of what ranks tell one another about the matrices' gradients, with error feedback.

Vogels et al. 2019, in the form of Ramesh et al. 2021, appendix E. What differs from the paper: P and Q travel as fp32,
since its 16-bit formats need reductions of their own and bring at most another factor of two; a rank has whole
matrices, not a machine's shards; a skipped update leaves no trace. Knows nothing of processes or of the optimizer.
"""

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from dalle_cli.data.shuffling import derive_seed

SumOverRanks = Callable[[Tensor], None]
IDENTITY_SHARE = 1e-6  # keeps the QR of a P without full rank well defined


class PowerSGD:
    """One rank's part in the compression: what it has not yet told the others, and how to tell.

    A matrix M, transposed where it is taller than wide, becomes P Q^T with orthonormal P of `rank` columns. P spans
    M Q0, where Q0 is drawn once: `starts`. What this leaves out joins the next gradient, by `errors`, in fp32, in the
    parameters' shapes, each rank its own. So outputs and the ranks' errors add up to the gradients so far. (M Q0 is
    zero for a pure error: which directions are sent is up to the fresh gradient. One that never changed would have the
    same part of it sent at each update.) Matrices that would not shrink are `uncompressed`.

    Every rank must make the same calls in the same order and compute alike, QR included.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]],
        rank: int,
        seed: int,
        n_ranks: int,
        device: torch.device,
    ) -> None:
        self.n_ranks = n_ranks
        self.names = list(shapes)
        self._shapes = dict(shapes)
        self._rank = rank
        self.uncompressed = [name for name, (m, n) in shapes.items() if rank * (m + n) >= m * n]
        compressed = {
            name: shape for name, shape in shapes.items() if name not in self.uncompressed
        }
        self.errors: dict[str, Tensor] = {
            name: torch.zeros(shape, device=device) for name, shape in compressed.items()
        }
        self.starts = {
            name: _gaussian(max(shape), rank, seed, name).to(device)
            for name, shape in compressed.items()
        }
        self._pending: dict[str, Tensor] = {}

    @torch.no_grad()
    def reduce(self, gradients: Mapping[str, Tensor], sum_over_ranks: SumOverRanks) -> None:
        """Replace this rank's gradients by the compressed sum over ranks, in place, where clip and optimizer look.

        gradients       by name, one for each shape given, fp32
        sum_over_ranks  sums a flat tensor in place, to the same bits everywhere; called twice at most

        Where any rank's gradients are not finite, or overflow on the way, all ranks' become NaN: they tell by what was
        summed, so they agree. The errors wait for `settle`. Raises ValueError if names are missing or unknown.
        """
        if gradients.keys() != self._shapes.keys():
            raise ValueError(
                f"gradients of {sorted(gradients)} given, of {sorted(self._shapes)} expected"
            )
        self._pending = {}
        for name, error in self.errors.items():
            gradients[name].add_(error)
        factors = self._factorise(gradients, sum_over_ranks)
        if factors is None:
            for gradient in gradients.values():
                gradient.fill_(math.nan)
            return
        for name, (p, q) in factors.items():
            low_rank = p @ q.T if _is_wide(gradients[name]) else q @ p.T
            self._pending[name] = gradients[name].sub(low_rank, alpha=1 / self.n_ranks)
            gradients[name].copy_(low_rank)

    def _factorise(
        self, gradients: Mapping[str, Tensor], sum_over_ranks: SumOverRanks
    ) -> dict[str, tuple[Tensor, Tensor]] | None:
        """Find P and Q of the sums by name, None if not finite; sum the uncompressed gradients on the way."""
        matrices = {name: _wide(gradients[name]) for name in self.starts}
        ps = {name: matrix @ self.starts[name] for name, matrix in matrices.items()}
        uncompressed = [gradients[name] for name in self.uncompressed]
        if not _sum_together([*ps.values(), *uncompressed], sum_over_ranks):
            return None
        ps = {name: _orthonormal(p) for name, p in ps.items()}
        qs = {name: matrix.T @ ps[name] for name, matrix in matrices.items()}
        if not _sum_together(qs.values(), sum_over_ranks):
            return None
        return {name: (p, qs[name]) for name, p in ps.items()}

    def settle(self, is_applied: bool) -> None:
        """Say what became of the reduced gradients; a skipped update leaves the errors as if it had never been tried.

        The paper adds a gradient to its error at once, for want of memory, so that a skipped batch may act later. Here
        a skipped batch is gone on every rank, as for the other parameters, and no error can ever become non-finite.
        """
        if is_applied:
            self.errors.update(self._pending)
        self._pending = {}

    def bytes_sent(self) -> int:
        """Count what one rank puts into the sums of one update."""
        saved = sum(
            m * n - self._rank * (m + n) for m, n in (self._shapes[name] for name in self.errors)
        )
        return self.uncompressed_bytes() - saved * torch.float32.itemsize

    def uncompressed_bytes(self) -> int:
        """Count what it would put into them without compression."""
        return sum(m * n for m, n in self._shapes.values()) * torch.float32.itemsize

    def state(self, sum_over_ranks: SumOverRanks) -> dict[str, Tensor]:
        """Give the errors' sum over ranks by name, on the CPU, and go on from even shares of it, as `restore` would.

        Only the sum matters, but for rounding; sharing evenly here makes a resumed run equal this one, bit for bit.
        """
        sums = {}
        for name, error in self.errors.items():
            total = error.clone(memory_format=torch.contiguous_format)
            sum_over_ranks(total)
            self.errors[name] = total / self.n_ranks
            sums[name] = total.cpu()
        return sums

    def restore(self, sums: Mapping[str, Tensor]) -> None:
        """Take an even share of errors summed over any number of ranks; raises ValueError naming what does not fit."""
        misfits = self.errors.keys() ^ sums.keys()
        misfits |= {
            name
            for name in self.errors.keys() & sums.keys()
            if sums[name].shape != self.errors[name].shape
        }
        if misfits:
            raise ValueError(f"{len(misfits)} errors do not fit: {', '.join(sorted(misfits)[:10])}")
        self.errors = {
            name: sums[name].to(error.device) / self.n_ranks for name, error in self.errors.items()
        }
        self._pending = {}


def _gaussian(n: int, rank: int, seed: int, name: str) -> Tensor:
    """Draw a matrix that depends on the seed and the name alone, on the CPU so that all devices have the same."""
    return torch.randn(
        n, rank, generator=torch.Generator().manual_seed(derive_seed(seed, "powersgd", name))
    )


def _is_wide(matrix: Tensor) -> bool:
    return matrix.shape[0] <= matrix.shape[1]


def _wide(matrix: Tensor) -> Tensor:
    return matrix if _is_wide(matrix) else matrix.T


def _orthonormal(p: Tensor) -> Tensor:
    """Orthonormalise columns by Householder's QR.

    P is scaled first, its scale being irrelevant: the paper's 1e-6 would outweigh gradients of 1e-8.
    """
    scale = p.abs().amax().clamp_min(torch.finfo(p.dtype).tiny)
    identity = torch.eye(*p.shape, dtype=p.dtype, device=p.device)
    return torch.linalg.qr(p / scale + IDENTITY_SHARE * identity).Q


def _sum_together(tensors: Iterable[Tensor], sum_over_ranks: SumOverRanks) -> bool:
    """Sum tensors over ranks in one message, in place; say whether the sums are finite."""
    tensors = list(tensors)
    if not tensors:
        return True
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    sum_over_ranks(flat)
    for tensor, part in zip(
        tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True
    ):
        tensor.copy_(part.view_as(tensor))
    return bool(flat.isfinite().all())
