"""Noise schedules of Gaussian diffusion, and the coarser grids of steps that samplers run on.

Ho et al. 2020; Nichol and Dhariwal 2021. Index 0 is the least noisy step; the clean sample comes
before it, with alpha_bar = 1. All tables are float64 on the CPU: in fp32, the first 1 - alpha_bar
of the cosine schedule would be wrong by 5e-4 of its value. Knows nothing of networks. Axes used
below:

    B batch    T steps of the training schedule    N steps of a grid; N = T for the whole schedule
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

ScheduleKind = Literal["cosine", "linear"]

COSINE_OFFSET = 0.008
LARGEST_BETA = 0.999  # without it, the last beta of the cosine schedule would be 1
FAST_27 = (10, 10, 3, 2, 2)  # steps in each fifth of the schedule
FAST_27_START = 997  # in place of the last one, of 1,000


def cosine_betas(n_steps: int) -> Tensor:
    """Compute the betas of the cosine schedule, float64 [T] (Nichol and Dhariwal 2021)."""
    ends = torch.arange(n_steps + 1, dtype=torch.float64, device="cpu") / n_steps
    levels = torch.cos((ends + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2  # [T + 1]
    return (1 - levels[1:] / levels[:-1]).clamp(max=LARGEST_BETA)


def linear_betas(n_steps: int) -> Tensor:
    """Compute the betas of the linear schedule, float64 [T], for more than 20 steps.

    Ho et al. 2020, from 1e-4 to 0.02 for 1,000 steps, and proportionally larger for fewer.
    """
    scale = 1000 / n_steps
    return torch.linspace(scale * 1e-4, scale * 0.02, n_steps, dtype=torch.float64, device="cpu")


class NoiseSchedule:
    """How noisy each step is, and everything that follows from it; all tables are float64 [N].

    timesteps               int64 [N], the steps of the training schedule that a network is told
    alphas_bar              the share of a sample's variance that is the clean sample's
    alphas_bar_before       the same, one step of the grid earlier
    posterior_variance      of q(x_before | x, clean sample)
    posterior_log_variance  its logarithm; index 0, where it is 0, has the value of index 1
    mean_from_clean         weight of the clean sample in that distribution's mean
    mean_from_noisy         weight of the noisy one
    """

    def __init__(self, betas: Tensor, timesteps: Tensor | None = None) -> None:
        """Build the tables from betas [N]; timesteps: None for the whole training schedule.

        Raises ValueError for fewer than two betas, or one that is not between 0 and 1.
        """
        if len(betas) < 2:
            raise ValueError(f"a noise schedule needs at least 2 steps: {len(betas)}")
        if not ((betas > 0) & (betas < 1)).all():
            raise ValueError(
                f"betas must be between 0 and 1: from {float(betas.min())} to {float(betas.max())}"
            )

        self.betas = betas.double()
        self.timesteps = torch.arange(len(betas), device="cpu") if timesteps is None else timesteps
        self.alphas = 1 - self.betas
        self.alphas_bar = self.alphas.cumprod(0)
        self.alphas_bar_before = torch.cat([self.alphas_bar.new_ones(1), self.alphas_bar[:-1]])

        before, noise = self.alphas_bar_before, 1 - self.alphas_bar
        self.posterior_variance = self.betas * (1 - before) / noise
        variances = self.posterior_variance
        self.posterior_log_variance = torch.cat([variances[1:2], variances[1:]]).log()
        self.mean_from_clean = self.betas * before.sqrt() / noise
        self.mean_from_noisy = (1 - before) * self.alphas.sqrt() / noise

    def __len__(self) -> int:
        return len(self.betas)

    def respaced(self, steps: Sequence[int]) -> "NoiseSchedule":
        """Build the schedule of some of the steps, in ascending order.

        The betas are those with which the kept steps are as noisy as before. A network is still
        told the steps of the training schedule. Raises ValueError for steps that are not ascending,
        or not in this schedule.
        """
        kept = torch.tensor(steps, device="cpu")
        if not ((kept[1:] > kept[:-1]).all() and steps[0] >= 0 and steps[-1] < len(self)):
            raise ValueError(f"steps must ascend within a schedule of {len(self)}: {list(steps)}")

        levels = self.alphas_bar[kept]  # [N]
        before = torch.cat([levels.new_ones(1), levels[:-1]])
        return NoiseSchedule(1 - levels / before, self.timesteps[kept])


def noise_schedule(kind: ScheduleKind, n_steps: int) -> NoiseSchedule:
    """Build the training schedule of a kind and a number of steps."""
    return NoiseSchedule(cosine_betas(n_steps) if kind == "cosine" else linear_betas(n_steps))


def strided_steps(n_steps: int, counts: Sequence[int]) -> list[int]:
    """Choose steps at a constant stride from the first to the last, in each of equal sections.

    counts  how many steps to keep of each section; the first sections are one step longer where
            they do not divide n_steps

    Raises ValueError where a section has fewer steps than are to be kept, or none is to be.
    """
    length, n_longer = divmod(n_steps, len(counts))
    steps: list[int] = []
    start = 0

    for section, count in enumerate(counts):
        size = length + (section < n_longer)
        if not 1 <= count <= size:
            raise ValueError(f"can't choose {count} of {size} steps")

        # the rounded stride decides ties: 499.49999999999994 of the 27 steps, not 499.5
        stride = (size - 1) / (count - 1) if count > 1 else 0.0
        steps += [start + round(i * stride) for i in range(count)]
        start += size
    return steps


def fast_27_steps() -> list[int]:
    """Return the 27 steps of 1,000 that GLIDE's authors tuned by hand, most of them late ones."""
    return [*strided_steps(1000, FAST_27)[:-1], FAST_27_START]


def table_entries(table: Tensor, index: int | Tensor, like: Tensor) -> Tensor:
    """Look up entries of a schedule's table, in a shape that multiplies samples.

    index    one index for the whole batch, or int64 [B] on the CPU
    like     samples [B, ...]
    returns  a scalar, or [B, 1, ...] of the samples' dtype and device
    """
    entries = table[index]
    if entries.ndim == 0:
        return entries  # a scalar of any dtype multiplies tensors of every dtype and device
    entries = entries.to(like, non_blocking=True)  # so that the host does not wait for a GPU
    return entries.view(-1, *[1] * (like.ndim - 1))  # [B, 1, ...]
