"""Ordinary loss scaling for fp16: a single gradient scale, as the discrete VAE was trained with.

Ramesh et al. 2021, appendix A.2. The loss is multiplied before its backward; a gradient that
reaches a parameter, which is fp32, is divided again at once. Knows nothing of ranks, of skipped
updates or of how a model computes in 16 bits.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from dalle_cli.storage.lazy_tensors import copy_tensors
from dalle_cli.training.metric_log import Metrics
from dalle_cli.training.optimization.gradient_scaling import unscale

INITIAL = 2.0**16
LOWEST = 1.0  # below, gradients overflow because they are too large and not because of the scale
WINDOW = 2_000  # updates without an overflow, after which the scale doubles; an overflow halves it


class LossScale:
    """The scale of the loss, adjusted by whether the gradients overflow.

    overflowed  [], above zero where a parameter's gradient was not finite since the last `update`
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.tensor(INITIAL, device=device)
        self.overflowed = torch.zeros((), device=device)
        self._clean_updates = torch.zeros((), dtype=torch.int64, device=device)
        self._can_recover = torch.zeros((), dtype=torch.bool, device=device)

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss to call backward on."""
        return loss * self.scale

    def update(self) -> None:
        """Adjust the scale and clear the flag.

        Call it after each attempted update, once ranks agree on the flag.
        """
        is_clean = self.overflowed == 0
        self._can_recover = ~is_clean & (self.scale > LOWEST)
        self._clean_updates.copy_(torch.where(is_clean, self._clean_updates + 1, 0))

        is_due = self._clean_updates == WINDOW
        self._clean_updates.masked_fill_(is_due, 0)
        self.scale *= torch.where(is_clean, torch.where(is_due, 2.0, 1.0), 0.5)
        self.overflowed.zero_()

    def can_recover(self) -> bool:
        """Return whether a lower scale may end the overflow of the last update."""
        return bool(self._can_recover)

    def metrics(self) -> Metrics:
        """Return the scale, left on its device."""
        return {"train/loss_scale": self.scale.clone()}

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that the rules depend on, not copies."""
        return {"loss_scale": self.scale, "clean_updates": self._clean_updates}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state, bit for bit; raises ValueError naming tensors that do not fit."""
        copy_tensors(self.state(), state, "grad_scales")


def scale_loss(model: nn.Module, device: torch.device) -> LossScale:
    """Make a model unscale every gradient as it arrives, from outside.

    The engine must scale the loss.
    """
    loss_scale = LossScale(device)
    for parameter in model.parameters():
        parameter.register_hook(partial(unscale, loss_scale.scale, loss_scale.overflowed))
    return loss_scale
