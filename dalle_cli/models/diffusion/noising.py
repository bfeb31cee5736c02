"""The forward process of diffusion, its posterior, and its two predictions as one another.

Ho et al. 2020. A noisy sample is sqrt(alpha_bar) times the clean one plus sqrt(1 - alpha_bar) times
standard normal noise. Every index is an int, or int64 [B] on the CPU; every sample [B, ...].
"""

from typing import Literal

from torch import Tensor

from dalle_cli.models.diffusion.noise_schedules import NoiseSchedule, table_entries

Target = Literal["noise", "clean"]


def add_noise(
    schedule: NoiseSchedule, clean: Tensor, *, noise: Tensor, index: int | Tensor
) -> Tensor:
    """Compute the noisy samples at an index from clean ones and standard normal noise."""
    level = table_entries(schedule.alphas_bar, index, clean)
    rest = table_entries(1 - schedule.alphas_bar, index, clean)
    return level.sqrt() * clean + rest.sqrt() * noise


def posterior_mean(
    schedule: NoiseSchedule, clean: Tensor, *, noisy: Tensor, index: int | Tensor
) -> Tensor:
    """Compute the mean of q(x_before | noisy, clean), one step of the grid before the index."""
    from_clean = table_entries(schedule.mean_from_clean, index, clean)
    from_noisy = table_entries(schedule.mean_from_noisy, index, clean)
    return from_clean * clean + from_noisy * noisy


def clean_from_noise(
    schedule: NoiseSchedule, noise: Tensor, *, noisy: Tensor, index: int | Tensor
) -> Tensor:
    """Compute the clean samples that noisy ones consist of, given their noise.

    An error in the noise is multiplied by sqrt(1 / alpha_bar - 1): by 20,291 at the last of 1,000
    steps of the cosine schedule, so this needs fp32, and what is predicted needs clipping.
    """
    scale, ratio = _scale_and_ratio(schedule, noisy, index)
    return scale * noisy - ratio * noise


def clean_from_prediction(
    schedule: NoiseSchedule,
    predicted: Tensor,
    *,
    predicts: Target,
    noisy: Tensor,
    index: int | Tensor,
) -> Tensor:
    """Return the clean samples that a network's prediction, of noise or of them, stands for."""
    if predicts == "clean":
        return predicted
    return clean_from_noise(schedule, predicted, noisy=noisy, index=index)


def noise_from_clean(
    schedule: NoiseSchedule, clean: Tensor, *, noisy: Tensor, index: int | Tensor
) -> Tensor:
    """Compute the noise in noisy samples, given the clean samples: inverts `clean_from_noise`."""
    scale, ratio = _scale_and_ratio(schedule, noisy, index)
    return (scale * noisy - clean) / ratio


def _scale_and_ratio(
    schedule: NoiseSchedule, like: Tensor, index: int | Tensor
) -> tuple[Tensor, Tensor]:
    """Return sqrt(1 / alpha_bar) and sqrt(1 / alpha_bar - 1)."""
    inverse = 1 / schedule.alphas_bar
    scale = table_entries(inverse.sqrt(), index, like)
    return scale, table_entries((inverse - 1).sqrt(), index, like)
