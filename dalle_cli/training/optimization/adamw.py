"""AdamW with decoupled weight decay and the published clip on the second moment.

Ramesh et al. 2021, appendix B.2. Knows nothing of schedules, skipped updates or processes.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import Parameter

from dalle_cli.config import OptimizerTable

CHUNK_VALUES = 2**25  # parameters updated together, about


class AdamW(torch.optim.Optimizer):
    """Adam with decoupled decay; one call per operation updates all parameters of a group.

    Call `prepare` before each `step`. A step may be taken in parts, by replacing `param_groups`
    with some of its groups: DeepSpeed does so, with flat partitions as parameters.
    """

    def __init__(self, groups: Iterable[dict], table: OptimizerTable) -> None:
        """groups: parameter groups as in torch, each with `params` and `weight_decay`."""
        super().__init__(groups, {"lr": 0.0, "update": 0})
        self.betas = tuple(table.betas)
        self.eps = table.eps
        self.clip_second_moment = table.clip_second_moment

    def prepare(self, update: int, lr: float) -> None:
        """Set the next update's number, from 1, for bias correction, and its learning rate."""
        for group in self.param_groups:
            group["update"], group["lr"] = update, lr

    def moments(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return a parameter's `exp_avg` and `exp_avg_sq`, zeros before its first step."""
        if not self.state[parameter]:
            self.state[parameter] = {
                name: torch.zeros_like(parameter.data) for name in ("exp_avg", "exp_avg_sq")
            }
        return self.state[parameter]

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # takes no closure
        """Update every parameter that has a gradient, once."""
        for group in self.param_groups:
            for parameters in _chunks(p for p in group["params"] if p.grad is not None):
                self._update(
                    parameters,
                    update=group["update"],
                    lr=group["lr"],
                    weight_decay=group["weight_decay"],
                )

    def _update(
        self, parameters: list[Tensor], *, update: int, lr: float, weight_decay: float
    ) -> None:
        beta1, beta2 = self.betas
        gradients = [p.grad for p in parameters if p.grad is not None]
        means = [self.moments(p)["exp_avg"] for p in parameters]
        variances = [self.moments(p)["exp_avg_sq"] for p in parameters]

        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(variances, beta2)
        torch._foreach_addcmul_(variances, gradients, gradients, value=1 - beta2)
        if self.clip_second_moment:
            torch._foreach_clamp_max_(variances, self.clip_second_moment)

        deviations = torch._foreach_sqrt(variances)
        torch._foreach_div_(deviations, (1 - beta2**update) ** 0.5)
        torch._foreach_add_(deviations, self.eps)
        torch._foreach_mul_(parameters, 1 - lr * weight_decay)
        torch._foreach_addcdiv_(parameters, means, deviations, value=-lr / (1 - beta1**update))


def _chunks(parameters: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Chunk parameters to about CHUNK_VALUES values, which bounds the temporaries of an update."""
    chunk: list[Tensor] = []
    for parameter in parameters:
        chunk.append(parameter)
        if sum(p.numel() for p in chunk) >= CHUNK_VALUES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def build_optimizer(
    matrices: list[Parameter], parameters: Iterable[Parameter], table: OptimizerTable
) -> AdamW:
    """Build an AdamW that decays the matrices only: gains, biases and embeddings are left alone."""
    decayed = {id(matrix) for matrix in matrices}
    others = [p for p in parameters if id(p) not in decayed]
    groups = [
        {"params": matrices, "weight_decay": table.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return AdamW(groups, table)
