"""Activation checkpointing: a residual branch is computed again in backward, not kept from forward.

Chen et al. 2016; the paper does it for every branch (Ramesh et al. 2021, section 2.4). ZeRO 3 needs
it: what autograd keeps of a branch would hold the branch's gathered parameters. Applied to branches
from outside, after all other techniques.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dalle_cli.runtime.mixins import extend_class


def checkpoint_activations(branches: Iterable[nn.Module]) -> None:
    """Make branches keep only their input between forward and backward, in place.

    Results and gradients stay the same to the last bit. A branch must not use random numbers.
    """
    for branch in branches:
        extend_class(branch, _Checkpointed)


class _Checkpointed(nn.Module):
    """Mixin: runs the module's forward a second time in backward."""

    def forward(self, *args: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(*args)
        return checkpoint(super().forward, *args, use_reentrant=False, preserve_rng_state=False)
