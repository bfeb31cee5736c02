"""fp16 with one gradient scale for all, the loss's: ordinary loss scaling, which the discrete VAE was trained with.

(Ramesh et al. 2021, appendix A.2.) The loss is multiplied before its backward; what reaches the parameters, which are
fp32, is divided again at once. Knows nothing of ranks or of skipping updates, nor how a model computes in 16 bits.
"""

from functools import partial

import torch
from torch import Tensor, nn

from dalle_cli.training.metric_log import Metrics
from dalle_cli.training.optimization.gradient_scaling import unscale

INITIAL = 2.0**16
WINDOW = 2_000  # updates without an overflow, after which the scale doubles; it is halved at each


class LossScale:
    """The scale, moved by what became of the gradients.

    overflowed  [], above zero where a parameter's gradient was not finite since the last `update`
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.tensor(INITIAL, device=device)
        self.overflowed = torch.zeros((), device=device)
        self._clean_updates = torch.zeros((), dtype=torch.int64, device=device)

    def scaled(self, loss: Tensor) -> Tensor:
        """Give the loss whose backward is to be taken."""
        return loss * self.scale

    def update(self) -> None:
        """Move the scale and clear the flag: to be called after each update tried, once ranks agree on the flag."""
        is_clean = self.overflowed == 0
        self._clean_updates.copy_(torch.where(is_clean, self._clean_updates + 1, 0))
        is_due = self._clean_updates == WINDOW
        self._clean_updates.masked_fill_(is_due, 0)
        self.scale *= torch.where(is_clean, torch.where(is_due, 2.0, 1.0), 0.5)
        self.overflowed.zero_()

    def metrics(self) -> Metrics:
        """Give the scale, left on its device."""
        return {"train/loss_scale": self.scale.clone()}

    def state(self) -> dict[str, Tensor]:
        """Give the tensors themselves that the rules go on from."""
        return {"loss_scale": self.scale, "clean_updates": self._clean_updates}


def scale_loss(model: nn.Module, device: torch.device) -> LossScale:
    """Unscale every gradient of a model as it arrives, from outside; its engine is to scale the loss."""
    loss_scale = LossScale(device)
    for parameter in model.parameters():
        parameter.register_hook(partial(unscale, loss_scale.scale, loss_scale.overflowed))
    return loss_scale
