"""Learned variances of the reverse process, and the hybrid loss that trains them.

Nichol and Dhariwal 2021, sections 3.1 and 3.2. A network predicts the noise, or the clean sample,
in C channels, and in C further ones where each log variance lies between the posterior's and the
log of beta. The squared error of the first half trains it, the variational bound the second. Axes
used below:

    B batch    C channels of a sample    T steps of the training schedule
"""

import math

import torch
from torch import Tensor

from dalle_cli.models.diffusion.noise_schedules import NoiseSchedule, table_entries
from dalle_cli.models.diffusion.noising import Target, clean_from_prediction, posterior_mean

HALF_BIN = 1 / 255  # half the distance of two of 256 levels in [-1, 1]
OPEN_BIN = 0.999  # beyond, a pixel is of the first or last level, whose bins have no outer end
SMALLEST_PROBABILITY = 1e-12


def learned_log_variance(schedule: NoiseSchedule, output: Tensor, *, index: int | Tensor) -> Tensor:
    """Interpolate between the posterior's log variance, for -1, and the log of beta, for 1.

    output   [B, C, ...], not limited to [-1, 1]
    returns  log variances [B, C, ...]
    """
    largest = table_entries(schedule.betas.log(), index, output)
    smallest = table_entries(schedule.posterior_log_variance, index, output)
    share = (output + 1) / 2
    return share * largest + (1 - share) * smallest


def gaussian_kl(
    mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor
) -> Tensor:
    """Compute the divergence of one Gaussian from another, in nats, entry by entry."""
    ratio = (log_variance - other_log_variance).exp()
    distance = (mean - other_mean).square() * (-other_log_variance).exp()
    return 0.5 * (other_log_variance - log_variance + ratio + distance - 1)


def pixel_nll(clean: Tensor, *, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Compute the negative log-probability of pixels' levels under Gaussians, in nats.

    clean  pixels in [-1, 1] that had 256 levels

    The cumulative distribution is a tanh approximation, as in the published code: numbers compare.
    """
    centred, scale = clean - mean, (-log_deviation).exp()
    above = _normal_cdf((centred + HALF_BIN) * scale)
    below = _normal_cdf((centred - HALF_BIN) * scale)

    probability = torch.where(clean > OPEN_BIN, 1 - below, above - below)
    probability = torch.where(clean < -OPEN_BIN, above, probability)
    return -probability.clamp(min=SMALLEST_PROBABILITY).log()


def variational_bound(
    schedule: NoiseSchedule,
    output: Tensor,
    *,
    predicts: Target,
    clean: Tensor,
    noisy: Tensor,
    index: Tensor,
) -> Tensor:
    """Compute each sample's term of the bound, in bits per dimension: [B].

    output  [B, 2 C, ...], the prediction and variances; only the variances get a gradient

    The term is the divergence of the true step back from the predicted one or, at index 0, the
    negative log-probability of the pixels. The predicted clean sample is not clipped.
    """
    prediction, variance = output.to(clean.dtype).chunk(2, dim=1)  # [B, C, ...] each
    predicted = clean_from_prediction(
        schedule, prediction.detach(), predicts=predicts, noisy=noisy, index=index
    )
    mean = posterior_mean(schedule, predicted, noisy=noisy, index=index)
    log_variance = learned_log_variance(schedule, variance, index=index)

    true_mean = posterior_mean(schedule, clean, noisy=noisy, index=index)
    true_log_variance = table_entries(schedule.posterior_log_variance, index, clean)
    divergence = gaussian_kl(true_mean, true_log_variance, mean, log_variance)
    first = pixel_nll(clean, mean=mean, log_deviation=0.5 * log_variance)

    is_first = (index == 0).to(clean.device, non_blocking=True)
    nats = torch.where(is_first, _mean_of_each(first), _mean_of_each(divergence))  # [B]
    return nats / math.log(2)


def hybrid_loss(
    schedule: NoiseSchedule,
    output: Tensor,
    *,
    predicts: Target,
    clean: Tensor,
    noise: Tensor,
    noisy: Tensor,
    index: Tensor,
) -> tuple[Tensor, Tensor]:
    """Compute the two parts of each sample's loss, which is their sum.

    output   [B, 2 C, ...], or [B, C, ...] of a network that learns no variances
    index    int64 [B] on the CPU, uniform over the training schedule
    returns  the mean squared error of what is predicted, and T / 1000 times the sample's term of
             the bound, both [B]; without variances, the second is 0

    Times the term of one step, T / 1000 is the published 0.001 times the bound, a sum of T terms.
    """
    predicted = output.to(clean.dtype)[:, : clean.shape[1]]
    target = noise if predicts == "noise" else clean
    error = _mean_of_each((predicted - target).square())
    if output.shape[1] == clean.shape[1]:
        return error, torch.zeros_like(error)

    bound = variational_bound(
        schedule, output, predicts=predicts, clean=clean, noisy=noisy, index=index
    )
    return error, len(schedule) / 1000 * bound


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _mean_of_each(x: Tensor) -> Tensor:
    """Average over all but the batch: [B]."""
    return x.flatten(1).mean(dim=1)
