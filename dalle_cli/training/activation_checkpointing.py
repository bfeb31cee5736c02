"""Activation checkpointing: what a residual branch computes is computed again in backward instead of being kept.

Chen et al. 2016; the paper does it for every branch (Ramesh et al. 2021, section 2.4). ZeRO 3 needs it: what autograd
keeps of a branch would hold its gathered parameters. Put around branches from outside, last of all that is.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dalle_cli.runtime.mixins import extend_class


def checkpoint_activations(branches: Iterable[nn.Module]) -> None:
    """Let branches keep nothing but their input between forward and backward, in place.

    Results and gradients stay the same to the last bit. A branch draws no random numbers.
    """
    for branch in branches:
        extend_class(branch, _Recomputed)


class _Recomputed(nn.Module):
    """What comes before a branch's own class once it is recomputed."""

    def forward(self, *args: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(*args)
        return checkpoint(super().forward, *args, use_reentrant=False, preserve_rng_state=False)
