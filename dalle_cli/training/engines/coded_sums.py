"""Sums over ranks of numbers in 16 bits, which no backend can add.

Ramesh et al. 2021, appendix E, sums with a kernel of its own. Here each rank adds a part of the
numbers for all, in fp32: the messages are those of a ring, and a sum is rounded once.
"""

import torch
from torch import Tensor

from dalle_cli.runtime.distributed import World
from dalle_cli.training.optimization.float_formats import FLOAT_1_6_9


def sum_numbers(numbers: Tensor, world: World) -> None:
    """Sum numbers over ranks, in place; every rank gets the same bits.

    numbers  fp32, or contiguous codes int16 of 1-6-9, summed as what they stand for [numbers]

    Finite sums beyond the largest number become the largest one, as published.
    """
    if numbers.dtype != torch.int16:
        world.all_reduce(numbers)
    elif world.size > 1:
        numbers.copy_(_sum_codes(numbers, world))


def _sum_codes(codes: Tensor, world: World) -> Tensor:
    n_each = -(-len(codes) // world.size)
    padded = torch.nn.functional.pad(codes, (0, n_each * world.size - len(codes)))
    parts = world.exchange(padded.view(torch.uint8).view(world.size, -1))  # [ranks, bytes]

    total = torch.zeros(n_each, device=codes.device)
    for part in parts:
        total += FLOAT_1_6_9.decode(part.view(torch.int16))
    encoded = FLOAT_1_6_9.encode(total)  # [numbers of a part]
    sums = world.all_gather_tensors(encoded.view(torch.uint8))
    return torch.cat(sums).view(torch.int16)[: len(codes)]
