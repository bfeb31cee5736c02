"""Data of one Gaussian entry, N(0.3, 0.25), for which the best prediction is known exactly."""

from collections.abc import Callable

import torch
from torch import Tensor

from dalle_cli.models.diffusion.noise_schedules import NoiseSchedule

MEAN = 0.3
VARIANCE = 0.25


def best_noise(schedule: NoiseSchedule) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the network that predicts the expected noise; it is told training steps."""
    levels = dict(zip(schedule.timesteps.tolist(), schedule.alphas_bar.tolist(), strict=True))

    def net(noisy: Tensor, timesteps: Tensor) -> Tensor:
        level = levels[int(timesteps[0])]
        spread = level * VARIANCE + 1 - level
        return (1 - level) ** 0.5 * (noisy - level**0.5 * MEAN) / spread

    return net


def clean_variances(schedule: NoiseSchedule) -> Tensor:
    """Return the variance of the clean sample given the noisy one, float64 [N]."""
    level = schedule.alphas_bar
    return VARIANCE * (1 - level) / (level * VARIANCE + 1 - level)


def drawn_distribution(step: Callable[[Tensor, int], tuple[Tensor, float]], n: int) -> tuple:
    """Return mean and standard deviation of what a sampler of affine steps draws.

    step  from samples [2, 1] and an index to the mean of the step back, and its variance
    """
    mean, variance = 0.0, 1.0
    for index in reversed(range(n)):
        at_zero, at_one = (
            float(x) for x in step(torch.tensor([[0.0], [1.0]]).double(), index)[0].flatten()
        )
        added = step(torch.zeros(2, 1).double(), index)[1]
        slope = at_one - at_zero
        mean, variance = at_zero + slope * mean, slope**2 * variance + added
    return mean, variance**0.5
