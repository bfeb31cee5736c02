"""The optimal variance of the reverse process, in closed form (Analytic-DPM, Bao et al. 2022).

It is the posterior's variance plus what the clean sample's uncertainty adds, which is measured once
for a trained network. All tables are float64 [N], one number for each index of a grid.
"""

from torch import Tensor

from dalle_cli.models.diffusion.noise_schedules import NoiseSchedule


def analytic_variance(
    schedule: NoiseSchedule, clean_variance: Tensor, *, data_variance: float
) -> Tensor:
    """Compute the variances for ancestral sampling.

    clean_variance  [N], the variance per dimension of the clean sample given the noisy one: the
                    mean squared error of a network that predicts the clean sample
    data_variance   the variance per dimension of clean samples, which no such error exceeds
    """
    uncertainty = clean_variance.double().clamp(0, data_variance)
    return schedule.posterior_variance + schedule.mean_from_clean**2 * uncertainty


def clean_variance_from_noise(schedule: NoiseSchedule, noise_power: Tensor) -> Tensor:
    """Compute the variance of the clean sample from a network that predicts the noise.

    noise_power  [N], the mean square per dimension of its predictions at each index
    """
    level = schedule.alphas_bar
    return (1 - level) / level * (1 - noise_power.double())
