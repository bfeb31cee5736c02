"""The random numbers of pictures, from a separate generator for each picture, stage and step.

What a picture looks like depends on the seed, its subject and its number: neither on the others of
its batch, nor on how many steps another stage takes. Generators are the CPU's, so that a GPU
samples the same pictures, but for rounding.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dalle_cli.data.shuffling import derive_seed


class NoiseKey(NamedTuple):
    """What the random numbers of a picture depend on.

    subject  a caption, or what identifies a picture
    """

    seed: int
    subject: str
    number: int


def gaussian_numbers(
    keys: Sequence[NoiseKey], *, stage: str, index: int | str, shape: tuple[int, ...]
) -> Tensor:
    """Sample standard normal noise for each picture: float32 [B, *shape], on the CPU.

    stage  the model that asks for it
    index  of the step, or the name of what comes before the first one
    """
    rows = [torch.randn(shape, generator=_generator(key, stage, index)) for key in keys]
    return torch.stack(rows)


def uniform_numbers(keys: Sequence[NoiseKey], *, stage: str, n: int) -> Tensor:
    """Sample n numbers uniform in [0, 1) for each picture: float64 [B, n], on the CPU."""
    rows = [
        torch.rand(n, generator=_generator(key, stage, "uniform"), dtype=torch.float64)
        for key in keys
    ]
    return torch.stack(rows)


def _generator(key: NoiseKey, stage: str, index: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(
        derive_seed(key.seed, key.number, key.subject, stage, index)
    )
