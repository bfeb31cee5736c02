"""Classifier-free guidance of a network that denoises (Ho and Salimans 2022).

The prediction is led away from the one without conditions. Both come from one batch, whose first
half has the conditions. Axes used below:

    B samples    C channels of a sample
"""

from collections.abc import Callable

import torch
from torch import Tensor

# from noisy samples [B, C, ...] and int64 [B] steps of the training schedule to a prediction, of C
# channels or of 2 C with variances
Net = Callable[[Tensor, Tensor], Tensor]


def guide(conditional: Tensor, null: Tensor, *, guidance: float, n_guided: int) -> Tensor:
    """Compute null + guidance * (conditional - null) for the first channels of two predictions.

    The others, which are variances, are the conditional ones.
    """
    guided, variances = conditional[:, :n_guided], conditional[:, n_guided:]
    unguided = null[:, :n_guided]
    return torch.cat([unguided + guidance * (guided - unguided), variances], dim=1)


class GuidedNet:
    """A network of B samples, made from one that predicts 2 B: with conditions, then without."""

    def __init__(self, net: Net, guidance: float) -> None:
        self._net = net
        self._guidance = guidance

    def __call__(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """Predict for noisy samples [B, C, ...], all channels that the network predicts."""
        both = self._net(torch.cat([noisy, noisy]), torch.cat([timesteps, timesteps]))
        conditional, null = both.chunk(2)  # [B, C or 2 C, ...] each
        return guide(conditional, null, guidance=self._guidance, n_guided=noisy.shape[1])
