"""AdamW with decoupled weight decay and the published clip on the second moment (Ramesh et al. 2021, appendix B.2)."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import Parameter

from dalle_cli.config import OptimizerTable

CHUNK_VALUES = 2**25


class AdamW(torch.optim.Optimizer):
    """Adam with decoupled decay; parameters of a group are updated together, by one call for each operation.

    `prepare` comes before each `step`. A step may be taken in parts, by exchanging `param_groups` for some of them:
    DeepSpeed does that, with flat partitions for parameters.
    """

    def __init__(self, groups: Iterable[dict], table: OptimizerTable) -> None:
        """groups as torch has them, each with `params` and `weight_decay`."""
        super().__init__(groups, {"lr": 0.0, "update": 0})
        self.betas = tuple(table.betas)
        self.eps = table.eps
        self.clip_second_moment = table.clip_second_moment

    def prepare(self, update: int, lr: float) -> None:
        """Say which update comes next, counted from 1, for bias correction, and its step size."""
        for group in self.param_groups:
            group["update"], group["lr"] = update, lr

    def moments(self, parameter: Tensor) -> dict[str, Tensor]:
        """Give a parameter's `exp_avg` and `exp_avg_sq`, in its shape: zero before its first step."""
        if not self.state[parameter]:
            self.state[parameter] = {
                name: torch.zeros_like(parameter.data) for name in ("exp_avg", "exp_avg_sq")
            }
        return self.state[parameter]

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient, once."""
        for group in self.param_groups:
            for parameters in _lots(p for p in group["params"] if p.grad is not None):
                self._update(parameters, group["update"], group["lr"], group["weight_decay"])

    def _update(
        self, parameters: list[Parameter], update: int, lr: float, weight_decay: float
    ) -> None:
        beta1, beta2 = self.betas
        gradients = [p.grad for p in parameters]
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


def _lots(parameters: Iterable[Parameter]) -> Iterator[list[Parameter]]:
    """Gather parameters into lots of not much more than so many values: temporaries are as large as a lot."""
    lot: list[Parameter] = []
    for parameter in parameters:
        lot.append(parameter)
        if sum(p.numel() for p in lot) >= CHUNK_VALUES:
            yield lot
            lot = []
    if lot:
        yield lot


def build_optimizer(
    matrices: list[Parameter], parameters: Iterable[Parameter], table: OptimizerTable
) -> AdamW:
    """Decay the matrices and nothing else: gains, biases and embeddings are left alone."""
    decayed = {id(matrix) for matrix in matrices}
    others = [p for p in parameters if id(p) not in decayed]
    groups = [
        {"params": matrices, "weight_decay": table.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return AdamW(groups, table)
