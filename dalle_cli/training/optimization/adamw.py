"""AdamW with decoupled weight decay, the published clip on the second moment, and its 16 bits.

Ramesh et al. 2021, appendix B.2. Knows nothing of schedules, skipped updates or processes.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from dalle_cli.config import OptimizerTable
from dalle_cli.training.optimization.float_formats import FLOAT_0_6_10, FLOAT_1_6_9

CHUNK_VALUES = 2**25  # parameters updated together, about
FORMATS = {"exp_avg": FLOAT_1_6_9, "exp_avg_sq": FLOAT_0_6_10}  # of moments in 16 bits


class _Slot(NamedTuple):
    """What an update reads and writes of a parameter, or of some of its rows."""

    parameter: Tensor
    gradient: Tensor
    mean: Tensor
    variance: Tensor


class AdamW(torch.optim.Optimizer):
    """Adam with decoupled decay; one call per operation updates all parameters of a group.

    Call `prepare` before each `step`. A step may be taken in parts, by replacing `param_groups`
    with some of its groups: DeepSpeed does so, with flat partitions as parameters.
    """

    def __init__(self, groups: Iterable[dict], table: OptimizerTable) -> None:
        """Build it with no moments yet; they begin with the first step.

        groups  as in torch, each with `params`, `weight_decay` and `in_16_bits`: whether its
                moments are
        """
        super().__init__(groups, {"lr": 0.0, "update": 0})
        self.betas = tuple(table.betas)
        self.eps = table.eps
        self.clip_second_moment = table.clip_second_moment

    def prepare(self, update: int, lr: float) -> None:
        """Set the next update's number, from 1, for bias correction, and its learning rate."""
        for group in self.param_groups:
            group["update"], group["lr"] = update, lr

    def moments(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return a parameter's `exp_avg` and `exp_avg_sq`, zeros before its first step.

        They are fp32, or the codes of `FORMATS`.
        """
        if not self.state[parameter]:
            groups = (g for g in self.param_groups if any(p is parameter for p in g["params"]))
            self.allot(parameter, next(groups))
        return self.state[parameter]

    def allot(self, parameter: Tensor, group: dict) -> None:
        """Create the moments, zeros, of a tensor that may stand for parameters of a group."""
        dtype = torch.int16 if group["in_16_bits"] else None
        self.state[parameter] = {
            name: torch.zeros_like(parameter.data, dtype=dtype) for name in FORMATS
        }

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # takes no closure
        """Update every parameter that has a gradient, once."""
        for group in self.param_groups:
            for slots in _chunks(self._slots(group["params"])):
                moments = [(slot.mean, slot.variance) for slot in slots]
                if group["in_16_bits"]:
                    slots = [_decoded(slot) for slot in slots]
                self._update(
                    slots, update=group["update"], lr=group["lr"], decay=group["weight_decay"]
                )
                if group["in_16_bits"]:
                    for slot, (mean, variance) in zip(slots, moments, strict=True):
                        mean.copy_(FLOAT_1_6_9.encode(slot.mean))
                        variance.copy_(FLOAT_0_6_10.encode(slot.variance))

    def _slots(self, parameters: Iterable[Tensor]) -> Iterator[_Slot]:
        for parameter in parameters:
            if parameter.grad is not None:
                slot = _Slot(parameter, parameter.grad, *self.moments(parameter).values())
                yield from _rows(slot)

    def _update(self, slots: list[_Slot], *, update: int, lr: float, decay: float) -> None:
        beta1, beta2 = self.betas
        parameters, gradients, means, variances = map(list, zip(*slots, strict=True))

        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(variances, beta2)
        torch._foreach_addcmul_(variances, gradients, gradients, value=1 - beta2)
        if self.clip_second_moment:
            torch._foreach_clamp_max_(variances, self.clip_second_moment)

        deviations = torch._foreach_sqrt(variances)
        torch._foreach_div_(deviations, (1 - beta2**update) ** 0.5)
        torch._foreach_add_(deviations, self.eps)
        torch._foreach_mul_(parameters, 1 - lr * decay)
        torch._foreach_addcdiv_(parameters, means, deviations, value=-lr / (1 - beta1**update))


def _decoded(slot: _Slot) -> _Slot:
    return slot._replace(
        mean=FLOAT_1_6_9.decode(slot.mean), variance=FLOAT_0_6_10.decode(slot.variance)
    )


def _rows(slot: _Slot) -> Iterator[_Slot]:
    """Cut a large parameter, such as a process's flat partition, to rows of a chunk's size."""
    if slot.parameter.numel() <= CHUNK_VALUES:
        yield slot
        return
    n_rows = max(1, CHUNK_VALUES * len(slot.parameter) // slot.parameter.numel())
    yield from map(_Slot._make, zip(*(tensor.split(n_rows) for tensor in slot), strict=True))


def _chunks(slots: Iterable[_Slot]) -> Iterator[list[_Slot]]:
    """Chunk slots to about CHUNK_VALUES values, which bounds the temporaries of an update."""
    chunk: list[_Slot] = []
    for slot in slots:
        chunk.append(slot)
        if sum(slot.parameter.numel() for slot in chunk) >= CHUNK_VALUES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def build_optimizer(
    matrices: list[Parameter], parameters: Iterable[Parameter], table: OptimizerTable
) -> AdamW:
    """Build an AdamW that decays the matrices only: gains, biases and embeddings are left alone.

    In the paper's form, these keep moments in fp32 as well.
    """
    decayed = {id(matrix) for matrix in matrices}
    others = [p for p in parameters if id(p) not in decayed]
    groups = [
        {
            "params": matrices,
            "weight_decay": table.weight_decay,
            "in_16_bits": table.moments == "paper",
        },
        {"params": others, "weight_decay": 0.0, "in_16_bits": False},
    ]
    return AdamW(groups, table)
