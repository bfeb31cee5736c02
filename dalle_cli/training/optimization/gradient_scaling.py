"""fp16 inside residual branches, with a gradient scale for each of them (Ramesh et al. 2021, section 2.4, appendix D).

Gradients shrink from the last branch to the first by more than fp16 can span, so that no one scale serves them all.
A branch gets its incoming gradient times its own scale; what it hands back to the stream and to its parameters is
unscaled and fp32, and so is the identity path. Parameters stay fp32 too, but a bias is cast together with its
matrix, so that its gradient passes through fp16, which the paper avoids. Branches know nothing of all this; nor does
this module of ranks or of skipping updates.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dalle_cli.runtime.mixins import extend_class
from dalle_cli.training.metric_log import Metrics

# in thousandths of a power of two, one of which is the growth of an update without overflow
LOWEST, INITIAL, HIGHEST = 7_000, 13_000, 24_000
DIVISION = 500  # by the square root of two
WINDOW = 125  # updates, among which a scale is divided once at most


class BranchScales:
    """One gradient scale for each residual branch, moved by the published rules.

    scales      [n], of which the branches hold views; changed in place, and never between a forward and its backward
    overflowed  [n], above zero where a parameter gradient of the branch was not finite since the last `update`

    All values that the rules can reach, M * 2^7 to M * 2^24 for M replicas, lie on one grid of 2^(1/1000); a scale
    moves by whole steps of it. Nothing is rounded twice, and ranks that agree on the overflows agree on every bit.
    """

    def __init__(self, n_branches: int, n_replicas: int, device: torch.device) -> None:
        exponents = torch.arange(LOWEST, HIGHEST + 1, dtype=torch.float64) / 1000
        self._grid = (n_replicas * torch.exp2(exponents)).float().to(device)
        self.scales = self._grid[INITIAL - LOWEST].repeat(n_branches)
        self.overflowed = torch.zeros(n_branches, device=device)
        self._updates_since_division = torch.full((n_branches,), WINDOW, device=device)

    def scaled(self, loss: Tensor) -> Tensor:
        """Give the loss whose backward is to be taken: as it is, since the branches scale for themselves."""
        return loss

    def update(self) -> None:
        """Move every scale and clear the flags: to be called after each update tried, once ranks agree on the flags.

        A branch without overflow grows even where another's made the update be skipped; one that overflows again
        within the window stays.
        """
        is_clean = self.overflowed == 0
        self._updates_since_division += 1
        is_divided = ~is_clean & (self._updates_since_division >= WINDOW)
        self._updates_since_division.masked_fill_(is_divided, 0)
        positions = (
            torch.searchsorted(self._grid, self.scales) + is_clean.long() - DIVISION * is_divided
        )
        self.scales.copy_(self._grid[positions.clamp(0, HIGHEST - LOWEST)])
        self.overflowed.zero_()

    def metrics(self) -> Metrics:
        """Give the lowest and the highest scale, left on their device."""
        return {"grad_scale/min": self.scales.min(), "grad_scale/max": self.scales.max()}

    def state(self) -> dict[str, Tensor]:
        """Give the tensors themselves that the rules go on from."""
        return {"scales": self.scales, "updates_since_division": self._updates_since_division}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over a state, bit for bit.

        Another number of replicas keeps the scales, since the loss is divided by the global batch whoever computes
        it; the first update brings them into its own range.
        """
        for name, tensor in self.state().items():
            tensor.copy_(state[name])


def scale_gradients(
    branches: Sequence[nn.Module], n_replicas: int, device: torch.device
) -> BranchScales:
    """Let residual branches compute in fp16 with a gradient scale each, in place, from outside.

    A branch maps the stream, fp32, and whatever else it is called with to what is added to the stream; its LayerNorm
    is its own. State keys stay as they are. A deep copy infers, but has lost the hooks that unscale: don't train it.
    Raises ValueError for a branch that has been here before, whose gradients would be divided twice.
    """
    again = [type(branch).__name__ for branch in branches if isinstance(branch, _Scaled)]
    if again:
        raise ValueError(
            f"{len(again)} of {len(branches)} branches have a gradient scale already: {again[0]}"
        )
    scales = BranchScales(len(branches), n_replicas, device)
    for i, branch in enumerate(branches):
        _scale_branch(branch, scales.scales[i], scales.overflowed[i])
    return scales


def _scale_branch(branch: nn.Module, scale: Tensor, overflowed: Tensor) -> None:
    """Swap the class of a branch: unlike a wrapper around it, that renames no parameter and survives a deep copy."""
    extend_class(branch, _Scaled)
    branch.gradient_scale = scale
    for parameter in branch.parameters():
        if parameter.requires_grad:  # a model loaded for inference has none that does
            parameter.register_hook(partial(unscale, scale, overflowed))


def unscale(scale: Tensor, overflowed: Tensor, gradient: Tensor) -> Tensor:
    """Runs on each contribution to a parameter's gradient, before it is accumulated or reduced over ranks."""
    overflowed += ~gradient.isfinite().all()
    return gradient / scale


class _Scaled(nn.Module):
    """What comes before a branch's own class once it is scaled."""

    gradient_scale: Tensor  # fp32 []; a tensor, so that no step waits for its value

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        x = _Enter.apply(x, self.gradient_scale)
        with _fp16(x.device):
            branch = super().forward(x, *others)
        return _Leave.apply(branch, self.gradient_scale)


def _fp16(device: torch.device) -> torch.autocast:
    """Cast at each use: a weight has one use in a branch, and a cache would hold its copy until the branch ends."""
    return torch.autocast(device.type, torch.float16, cache_enabled=False)


class _Enter(torch.autograd.Function):
    """From the stream into a branch; backward, out of the scaled gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (scale,) = ctx.saved_tensors
        return _filtered(gradient / scale), None


class _Leave(torch.autograd.Function):
    """From a branch back to the stream, in fp32; backward, into the scaled gradients.

    What overflows in the cast to fp16 is left to overflow: it shows in the branch's parameter gradients, by which its
    scale comes down.
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
    """Zero what is not finite, so that one branch's overflow lowers no other's scale."""
    return gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
