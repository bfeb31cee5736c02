"""Samplers of diffusion: ancestral, DDIM, and DDIM backwards, from a sample to its noise.

Ho et al. 2020; Song et al. 2021. All randomness is given: the noise to begin with, and a function
that returns the noise of each index. Knows nothing of networks, conditions or seeds. Axes used
below:

    B batch    C channels of a sample    N steps of the grid
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dalle_cli.models.diffusion.guided_net import Net
from dalle_cli.models.diffusion.hybrid_loss import learned_log_variance
from dalle_cli.models.diffusion.noise_schedules import NoiseSchedule
from dalle_cli.models.diffusion.noising import (
    Target,
    clean_from_prediction,
    noise_from_clean,
    posterior_mean,
)

NoiseAt = Callable[[int], Tensor]  # from an index of the grid to standard normal noise [B, C, ...]


class Denoised(NamedTuple):
    """What a network makes of noisy samples [B, C, ...]."""

    clean: Tensor
    noise: Tensor  # what separates the clean samples, clipped ones included, from the noisy ones
    log_variance: Tensor  # of the step back: a scalar, or [B, C, ...]


@dataclass(frozen=True)
class Denoiser:
    """A network with all that a sampler needs to know of it."""

    net: Net
    schedule: NoiseSchedule  # the grid to sample on
    predicts: Target
    limit: float | None  # clean entries are clipped to [-limit, limit]; None: not clipped
    log_variances: Tensor | None  # float64 [N]; None: those that the network predicts

    def __call__(self, noisy: Tensor, index: int) -> Denoised:
        """Predict the clean samples in noisy ones [B, C, ...] of an index of the grid."""
        schedule, n_channels = self.schedule, noisy.shape[1]
        step = int(schedule.timesteps[index])  # of the training schedule, whatever the grid
        timesteps = torch.full((len(noisy),), step, device=noisy.device)

        output = self.net(noisy, timesteps).to(noisy.dtype)
        predicted, variance = output[:, :n_channels], output[:, n_channels:]
        clean = clean_from_prediction(
            schedule, predicted, predicts=self.predicts, noisy=noisy, index=index
        )
        if self.limit is not None:
            clean = clean.clamp(-self.limit, self.limit)

        if self.log_variances is not None:
            log_variance = self.log_variances[index]
        else:
            log_variance = learned_log_variance(schedule, variance, index=index)
        noise = noise_from_clean(schedule, clean, noisy=noisy, index=index)
        return Denoised(clean, noise, log_variance)


def sample_ancestral(denoiser: Denoiser, start: Tensor, noise_at: NoiseAt) -> Tensor:
    """Sample by the reverse process, from standard normal noise [B, C, ...] to clean samples."""
    x = start
    for index in reversed(range(len(denoiser.schedule))):
        denoised = denoiser(x, index)
        noise = noise_at(index) if index else None
        x = ancestral_step(denoiser.schedule, denoised, noisy=x, index=index, noise=noise)
    return x


def ancestral_step(
    schedule: NoiseSchedule,
    denoised: Denoised,
    *,
    noisy: Tensor,
    index: int,
    noise: Tensor | None,
) -> Tensor:
    """Sample one step back; noise None: the mean, as at the last step."""
    mean = posterior_mean(schedule, denoised.clean, noisy=noisy, index=index)
    return mean if noise is None else mean + (0.5 * denoised.log_variance).exp() * noise


def sample_ddim(
    denoiser: Denoiser, start: Tensor, *, eta: float = 0.0, noise_at: NoiseAt | None = None
) -> Tensor:
    """Sample by DDIM, from noise [B, C, ...] to clean samples.

    eta       share of the randomness of ancestral sampling; 0: none, so that the start decides
    noise_at  may be None where eta is 0

    Raises ValueError where eta is above 0 and there is no noise.
    """
    if eta and noise_at is None:
        raise ValueError(f"DDIM with eta {eta} needs noise")

    x = start
    for index in reversed(range(len(denoiser.schedule))):
        noise = noise_at(index) if noise_at is not None and eta and index else None
        x = ddim_step(denoiser.schedule, denoiser(x, index), index=index, eta=eta, noise=noise)
    return x


def ddim_step(
    schedule: NoiseSchedule, denoised: Denoised, *, index: int, eta: float, noise: Tensor | None
) -> Tensor:
    """Go one DDIM step back; noise None: the mean of such steps."""
    before = schedule.alphas_bar_before[index]
    variance = eta**2 * schedule.posterior_variance[index]

    mean = before.sqrt() * denoised.clean + (1 - before - variance).sqrt() * denoised.noise
    return mean if noise is None else mean + variance.sqrt() * noise


def invert_ddim(denoiser: Denoiser, clean: Tensor) -> Tensor:
    """Find the noise [B, C, ...] from which DDIM with eta 0 samples given clean samples.

    The network is asked at each index for samples of the index before, as it will be told the same
    step on the way back. It should be unguided. Raises ValueError for a denoiser that clips.
    """
    if denoiser.limit is not None:
        raise ValueError(f"a denoiser that clips to {denoiser.limit} can't be inverted")

    x = clean
    for index in range(len(denoiser.schedule)):
        x = inversion_step(denoiser.schedule, denoiser(x, index).noise, x=x, index=index)
    return x


def inversion_step(schedule: NoiseSchedule, noise: Tensor, *, x: Tensor, index: int) -> Tensor:
    """Go from samples x of the index before to those of an index, along the predicted noise."""
    level, before = schedule.alphas_bar[index], schedule.alphas_bar_before[index]
    clean = (x - (1 - before).sqrt() * noise) / before.sqrt()
    return level.sqrt() * clean + (1 - level).sqrt() * noise
