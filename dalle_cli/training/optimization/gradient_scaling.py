"""fp16 inside residual branches, with a gradient scale for each branch.

Ramesh et al. 2021, section 2.4 and appendix D. From the last branch to the first, gradients shrink
by more than fp16 can span, so that no single scale suits them all. A branch receives its incoming
gradient times its scale; the gradients that it passes to the stream and to its parameters are
unscaled and fp32, and so is the identity path. Parameters stay fp32 too, but a bias is cast
together with its matrix, so that its gradient passes through fp16, which the paper avoids. Branches
know nothing of all this; this module knows nothing of ranks or of skipped updates.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dalle_cli.runtime.mixins import extend_class
from dalle_cli.storage.lazy_tensors import copy_tensors
from dalle_cli.training.metric_log import Metrics

# in thousandths of a power of two; an update without overflow raises a scale by one thousandth
LOWEST, INITIAL, HIGHEST = 7_000, 13_000, 24_000
DIVISION = 500  # by the square root of two
WINDOW = 125  # updates in which a scale is divided at most once


class GradientScales(Protocol):
    """The gradient scales of a model that trains in fp16: one for its loss, or one per branch.

    overflowed  above zero where a gradient was not finite since the last `update`; to be summed
                over ranks before it
    """

    overflowed: Tensor

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss to call backward on."""
        ...

    def update(self) -> None:
        """Adjust the scales after an attempted update, and clear the flags."""
        ...

    def can_recover(self) -> bool:
        """Return whether lower scales may end the overflow of the last update."""
        ...

    def metrics(self) -> Metrics:
        """Return the scales in use, left on their device."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint stores."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state, bit for bit; raises ValueError naming tensors that do not fit."""
        ...


class BranchScales:
    """One gradient scale for each residual branch, adjusted by the published rules.

    scales      [n]; branches hold views of it; changed in place, but never between a forward and
                its backward
    overflowed  [n], above zero where a parameter gradient of the branch was not finite since the
                last `update`

    All values that the rules can reach, M * 2^7 to M * 2^24 for M replicas, lie on a grid of
    2^(1/1000); a scale moves by whole steps of the grid. Nothing is rounded twice, and ranks that
    agree on the overflows agree on every bit.
    """

    def __init__(self, n_branches: int, n_replicas: int, device: torch.device) -> None:
        exponents = torch.arange(LOWEST, HIGHEST + 1, dtype=torch.float64) / 1000
        self._grid = (n_replicas * torch.exp2(exponents)).float().to(device)
        self.scales = self._grid[INITIAL - LOWEST].repeat(n_branches)
        self.overflowed = torch.zeros(n_branches, device=device)
        self._updates_since_division = torch.full((n_branches,), WINDOW, device=device)
        self._can_recover = torch.zeros((), dtype=torch.bool, device=device)

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss unchanged, since each branch scales for itself."""
        return loss

    def update(self) -> None:
        """Adjust every scale and clear the flags.

        Call it after each attempted update, once ranks agree on the flags.
        A branch without overflow grows even if another branch's overflow made the update be
        skipped; a branch that overflows again within the window keeps its scale.
        """
        is_clean = self.overflowed == 0
        self._updates_since_division += 1
        is_divided = ~is_clean & (self._updates_since_division >= WINDOW)
        self._updates_since_division.masked_fill_(is_divided, 0)

        positions = torch.searchsorted(self._grid, self.scales)
        self._can_recover = (is_clean | (positions > 0)).all() & ~is_clean.all()
        positions = positions + is_clean.long() - DIVISION * is_divided
        self.scales.copy_(self._grid[positions.clamp(0, HIGHEST - LOWEST)])
        self.overflowed.zero_()

    def can_recover(self) -> bool:
        """Return whether lower scales may end the overflow of the last update.

        Not where it was outside the branches, or where a branch had the lowest scale already.
        """
        return bool(self._can_recover)

    def metrics(self) -> Metrics:
        """Return the lowest and the highest scale, left on their device."""
        return {"grad_scale/min": self.scales.min(), "grad_scale/max": self.scales.max()}

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that the rules depend on, not copies."""
        return {"scales": self.scales, "updates_since_division": self._updates_since_division}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state, bit for bit; raises ValueError naming tensors that do not fit.

        With another number of replicas the scales are kept, since the loss is divided by the global
        batch whoever computes it; the first update brings them into the range of the new number.
        """
        copy_tensors(self.state(), state, "grad_scales")


def scale_gradients(
    branches: Sequence[nn.Module], n_replicas: int, device: torch.device
) -> BranchScales:
    """Make residual branches compute in fp16 with a gradient scale each, in place, from outside.

    A branch maps the stream, fp32, and whatever else it is called with to what is added to the
    stream; its LayerNorm is part of it. State keys stay as they are. A deep copy can infer, but has
    lost the hooks that unscale: don't train it. Raises ValueError for a branch that has a scale
    already, whose gradients would be divided twice.
    """
    again = [type(branch).__name__ for branch in branches if isinstance(branch, _Scaled)]
    if again:
        n_scaled = f"{len(again)} of {len(branches)} branches"
        raise ValueError(f"{n_scaled} have a gradient scale already: {again[0]}")

    scales = BranchScales(len(branches), n_replicas, device)
    for i, branch in enumerate(branches):
        _scale_branch(branch, scale=scales.scales[i], overflowed=scales.overflowed[i])
    return scales


def _scale_branch(branch: nn.Module, *, scale: Tensor, overflowed: Tensor) -> None:
    extend_class(branch, _Scaled)
    branch.gradient_scale = scale
    for parameter in branch.parameters():
        if parameter.requires_grad:  # a model loaded for inference has none that does
            parameter.register_hook(partial(unscale, scale, overflowed))


def unscale(scale: Tensor, overflowed: Tensor, gradient: Tensor) -> Tensor:
    """Unscale a contribution to a parameter's gradient; raise `overflowed` where it is not finite.

    A hook: it runs before the contribution is accumulated or reduced over ranks.
    """
    overflowed += ~gradient.isfinite().all()
    return gradient / scale


class _Scaled(nn.Module):
    """Mixin: runs the branch's forward in fp16 with scaled gradients, and returns fp32."""

    gradient_scale: Tensor  # fp32 []; a tensor, so that no step waits for its value

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        x = _Enter.apply(x, self.gradient_scale)
        with _fp16(x.device):
            branch = super().forward(x, *others)
        return _Leave.apply(branch, self.gradient_scale)


def _fp16(device: torch.device) -> torch.autocast:
    """Return an autocast that casts at each use.

    A weight is used once in a branch, and a cache would keep its copy until the branch ends.
    """
    return torch.autocast(device.type, torch.float16, cache_enabled=False)


class _Enter(torch.autograd.Function):
    """The identity, from the stream into a branch; its backward unscales the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (scale,) = ctx.saved_tensors
        return _filtered(gradient / scale), None


class _Leave(torch.autograd.Function):
    """The cast to fp32, from a branch back to the stream; its backward scales the gradient.

    A gradient that overflows in the cast to fp16 is left to overflow: it shows in the branch's
    parameter gradients, which lowers the branch's scale.
    """

    @staticmethod
    def forward(ctx: Any, branch: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        ctx.dtype = branch.dtype
        return branch.float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (scale,) = ctx.saved_tensors
        return _filtered(gradient * scale).to(ctx.dtype), None


def _filtered(gradient: Tensor) -> Tensor:
    """Zero non-finite values, so that a branch's overflow lowers no other branch's scale."""
    return gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
