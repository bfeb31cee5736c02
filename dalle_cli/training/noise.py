"""Random numbers for the samples of a batch, each from a generator of its own.

A sample's noise depends on the seed, its draw and the purpose alone: micro-batches and resumption change nothing.
"""

import torch
from torch import Tensor

from dalle_cli.data.order import mix


def gumbel_noise(seed: int, draws: list[int], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Draw standard Gumbel noise: float32 [len(draws), *shape]."""
    noise = torch.empty(len(draws), *shape, device=device)
    for row, draw in zip(noise, draws, strict=True):
        row.exponential_(generator=_generator(seed, draw, "gumbel", device))
    return noise.log_().neg_()


def uniform_noise(seed: int, draws: list[int], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Draw noise uniform in [-1/2, 1/2): float32 [len(draws), *shape]."""
    noise = torch.empty(len(draws), *shape, device=device)
    for row, draw in zip(noise, draws, strict=True):
        row.uniform_(-0.5, 0.5, generator=_generator(seed, draw, "uniform", device))
    return noise


def _generator(seed: int, draw: int, purpose: str, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(mix(seed, draw, purpose))
