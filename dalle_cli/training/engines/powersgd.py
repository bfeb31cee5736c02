"""PowerSGD: low-rank compression of the matrices' gradients between ranks, with error feedback.

Vogels et al. 2019, in the form of Ramesh et al. 2021, appendix E, in fp32 or in the paper's 16
bits. It differs from the paper in one point: a skipped update leaves no trace. A rank has whole
matrices or, as in the paper, its shards of them. Knows nothing of processes or of the optimizer.
"""

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from dalle_cli.data.shuffling import derive_seed
from dalle_cli.training.optimization.float_formats import FLOAT_1_6_9

SumOverRanks = Callable[[Tensor], None]
ERRORS = "compression_errors"  # the group of the errors in a checkpoint
IDENTITY_SHARE = 1e-6  # keeps the QR of a P without full rank well defined
# Of 16-bit factors; the paper tells no values. With ours, 1-6-9 holds a Q from 2**-48 to 2**14, and
# the P of such gradients, whose rows have been summed with those of Q0.
P_SCALE, Q_SCALE = 2.0**-17, 2.0**-10


class PowerSGD:
    """One rank's part in the compression, and the errors that it has not yet sent to the others.

    A matrix M, transposed where it is taller than wide, becomes P Q^T, where P has `rank`
    orthonormal columns. P spans M Q0, and Q0 is sampled once: `starts`. The error of this
    approximation is added to the next gradient: `errors`, in the parameters' shapes, different on
    each rank. So the outputs and the ranks' errors add up to the gradients so far. (M
    Q0 is zero for a pure error: the fresh gradient decides which directions are sent. Of a gradient
    that never changed, the same part would be sent at each update.) Matrices that would not shrink
    are `uncompressed`; errors that they have from ranks of another layout go with the next update.

    In 16 bits, errors, P and Q are codes of 1-6-9, all else is fp32. What rounding P and Q changes
    is part of the error; rounding an error loses at most 2**-10 of it at each update. A gradient
    that the format can't hold, above 16, counts as not finite, as in the paper.

    Every rank must make the same calls in the same order and compute alike, QR included.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]],
        rank: int,
        *,
        seed: int,
        n_ranks: int,
        device: torch.device,
        in_16_bits: bool = False,
    ) -> None:
        """shapes: of the matrices, by name; rank: the columns of P; n_ranks: the processes."""
        self.n_ranks = n_ranks
        self.in_16_bits = in_16_bits
        self.names = list(shapes)
        self._shapes = dict(shapes)
        self._rank = rank
        self._device = device

        self.uncompressed = [name for name, (m, n) in shapes.items() if rank * (m + n) >= m * n]
        compressed = {
            name: shape for name, shape in shapes.items() if name not in self.uncompressed
        }
        self.errors: dict[str, Tensor] = {
            name: self._stored(torch.zeros(shape, device=device))
            for name, shape in compressed.items()
        }
        self.starts = {
            name: _gaussian(max(shape), rank, seed=seed, name=name).to(device)
            for name, shape in compressed.items()
        }
        self._pending: dict[str, Tensor] | None = None  # the errors, if the update is applied

    @torch.no_grad()
    def reduce(self, gradients: Mapping[str, Tensor], sum_over_ranks: SumOverRanks) -> None:
        """Replace this rank's gradients by the compressed sum over ranks, in place.

        gradients       by name, one for each shape given, fp32
        sum_over_ranks  sums a flat tensor in place, to the same bits everywhere: fp32, or codes of
                        1-6-9 as numbers; called twice at most, and in 16 bits once more

        If any rank's gradients are not finite, or overflow on the way, the gradients of all ranks
        become NaN. The ranks decide by the sums, so that they agree. The new errors take effect in
        `settle`. Raises ValueError where names are missing or unknown.
        """
        if gradients.keys() != self._shapes.keys():
            raise ValueError(
                f"gradients of {sorted(gradients)} given, of {sorted(self._shapes)} expected"
            )

        self._pending = None
        for name, error in self.errors.items():
            gradients[name].add_(_numbers(error))

        factors = self._factorise(gradients, sum_over_ranks)
        if factors is None:
            for gradient in gradients.values():
                gradient.fill_(math.nan)
            return

        self._pending = {}
        for name, factors_of_one in factors.items():
            p, q = _numbers(factors_of_one[0]), _numbers(factors_of_one[1], Q_SCALE)
            low_rank = p @ q.T if _is_wide(gradients[name]) else q @ p.T
            unsent = gradients[name].sub(low_rank, alpha=1 / self.n_ranks)
            self._pending[name] = self._stored(unsent)
            gradients[name].copy_(low_rank)

    def _factorise(
        self, gradients: Mapping[str, Tensor], sum_over_ranks: SumOverRanks
    ) -> dict[str, tuple[Tensor, Tensor]] | None:
        """Compute P and Q of the sums by name, as stored, and sum the uncompressed gradients.

        Returns None where a sum is not finite.
        """
        matrices = {name: _wide(gradients[name]) for name in self.starts}
        ps = {name: self._first_factor(name, matrix) for name, matrix in matrices.items()}
        uncompressed = [gradients[name] for name in self.uncompressed]
        if not _sum_together([*ps.values(), *uncompressed], sum_over_ranks):
            return None

        ps = {name: self._stored(_orthonormal(_numbers(p))) for name, p in ps.items()}
        qs = {
            name: self._stored(matrix.T @ _numbers(ps[name]), Q_SCALE)
            for name, matrix in matrices.items()
        }
        if not _sum_together(qs.values(), sum_over_ranks):
            return None
        return {name: (p, qs[name]) for name, p in ps.items()}

    def _first_factor(self, name: str, matrix: Tensor) -> Tensor:
        p = matrix @ self.starts[name]
        if self.in_16_bits:
            is_held = matrix.abs().amax() <= FLOAT_1_6_9.largest
            p = torch.where(is_held, p, math.nan)
        return self._stored(p, P_SCALE)

    def _stored(self, numbers: Tensor, scale: float = 1.0) -> Tensor:
        """Return fp32 numbers as they are, or times a scale as codes of 1-6-9."""
        return FLOAT_1_6_9.encode(numbers * scale) if self.in_16_bits else numbers

    def settle(self, *, is_applied: bool) -> None:
        """Keep the new errors if the update was applied; a skipped update leaves no trace in them.

        The paper adds a gradient to its error at once, for want of memory, so that a skipped batch
        may take effect later. Here a skipped batch is lost on every rank, as it is for the other
        parameters, and no error can ever become non-finite.
        """
        if is_applied and self._pending is not None:
            self.errors = self._pending
        self._pending = None

    def bytes_sent(self) -> int:
        """Return the bytes that one rank sends into the sums of one update."""
        return bytes_sent(self._shapes.values(), self._rank, in_16_bits=self.in_16_bits)

    def uncompressed_bytes(self) -> int:
        """Return the bytes that one rank would send without compression."""
        return sum(m * n for m, n in self._shapes.values()) * torch.float32.itemsize

    def state(self, sum_over_ranks: SumOverRanks) -> dict[str, Tensor]:
        """Return the errors' sums over ranks by name, fp32 on the CPU, and keep an even share.

        Only the sums matter, but for rounding. Sharing them here as `restore` does makes a resumed
        run equal this one, bit for bit.
        """
        sums = {}
        for name, error in self.errors.items():
            total = _numbers(error).clone(memory_format=torch.contiguous_format)
            sum_over_ranks(total)
            self.errors[name] = self._stored(total / self.n_ranks)
            sums[name] = total.cpu()
        return sums

    def restore(self, sums: Mapping[str, Tensor]) -> None:
        """Restore an even share of errors that were summed over any number of ranks.

        They may be those of another rank or layout, which left other matrices uncompressed. Raises
        ValueError naming errors that are not of these matrices.
        """
        misfits = [name for name in sums if self._shapes.get(name) != tuple(sums[name].shape)]
        if misfits:
            raise ValueError(f"{len(misfits)} errors do not fit: {', '.join(sorted(misfits)[:10])}")

        zeros = {name: torch.zeros_like(error) for name, error in self.errors.items()}
        shares = {
            name: self._stored(total.to(self._device) / self.n_ranks)
            for name, total in sums.items()
        }
        self.errors = zeros | shares
        self._pending = None


def bytes_sent(shapes: Iterable[tuple[int, int]], rank: int, *, in_16_bits: bool) -> int:
    """Return the bytes of matrices' gradients that one rank sends into the sums of one update."""
    number, factor = torch.float32.itemsize, (torch.int16 if in_16_bits else torch.float32).itemsize
    return sum(
        factor * rank * (m + n) if rank * (m + n) < m * n else number * m * n for m, n in shapes
    )


def _numbers(stored: Tensor, scale: float = 1.0) -> Tensor:
    """Return the numbers, as they were before they were scaled, of what may be codes of 1-6-9."""
    return FLOAT_1_6_9.decode(stored) / scale if stored.dtype == torch.int16 else stored


def _gaussian(n: int, rank: int, *, seed: int, name: str) -> Tensor:
    """Sample a matrix [n, rank] that depends only on the seed and the name.

    It is sampled on the CPU, so that it is the same for all devices.
    """
    return torch.randn(
        n, rank, generator=torch.Generator().manual_seed(derive_seed(seed, "powersgd", name))
    )


def _is_wide(matrix: Tensor) -> bool:
    return matrix.shape[0] <= matrix.shape[1]


def _wide(matrix: Tensor) -> Tensor:
    return matrix if _is_wide(matrix) else matrix.T


def _orthonormal(p: Tensor) -> Tensor:
    """Orthonormalise the columns of P [m, rank] by Householder's QR.

    P is normalised first, since its scale is irrelevant: the paper's 1e-6 would outweigh gradients
    of 1e-8.
    """
    scale = p.abs().amax().clamp_min(torch.finfo(p.dtype).tiny)
    identity = torch.eye(*p.shape, dtype=p.dtype, device=p.device)
    return torch.linalg.qr(p / scale + IDENTITY_SHARE * identity).Q


def _sum_together(tensors: Iterable[Tensor], sum_over_ranks: SumOverRanks) -> bool:
    """Sum tensors over ranks in a message for each type; return whether the sums are finite.

    In place.
    """
    tensors = list(tensors)
    messages = [[t for t in tensors if t.dtype == dtype] for dtype in (torch.int16, torch.float32)]
    return all([_sum_message(message, sum_over_ranks) for message in messages if message])


def _sum_message(tensors: list[Tensor], sum_over_ranks: SumOverRanks) -> bool:
    flat = torch.cat([tensor.flatten() for tensor in tensors])  # [values of all tensors]
    sum_over_ranks(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))
    are_codes = flat.dtype == torch.int16
    return bool(FLOAT_1_6_9.are_finite(flat) if are_codes else flat.isfinite().all())
