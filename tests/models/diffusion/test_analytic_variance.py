"""The optimal variance against specified values, its bounds, and both of its forms."""

import pytest
import torch
from gaussian import clean_variances

from dalle_cli.models.diffusion.analytic_variance import (
    analytic_variance,
    clean_variance_from_noise,
)
from dalle_cli.models.diffusion.noise_schedules import NoiseSchedule, noise_schedule, strided_steps

AT_005 = {  # training step of the 64-step cosine grid: variance for a clean variance of 0.05
    16: 0.0470562916,
    254: 0.0191216674,
    507: 0.0444221826,
    983: 0.7485163658,
}


@pytest.fixture
def schedule() -> NoiseSchedule:
    return noise_schedule("cosine", 1000).respaced(strided_steps(1000, [64]))


def test_variance_matches_the_specified_values(schedule: NoiseSchedule) -> None:
    found = analytic_variance(
        schedule, torch.full((64,), 0.05, dtype=torch.float64), data_variance=1.0
    )
    steps = schedule.timesteps.tolist()
    for step, variance in AT_005.items():
        assert float(found[steps.index(step)]) == pytest.approx(variance, abs=5e-11)


def test_variance_lies_between_the_posteriors_and_the_largest(schedule: NoiseSchedule) -> None:
    unbounded = torch.linspace(-1, 5, 64)
    found = analytic_variance(schedule, unbounded, data_variance=1.0)
    assert (found >= schedule.posterior_variance).all()
    largest = schedule.posterior_variance + schedule.mean_from_clean**2
    assert (found <= largest).all()
    least = analytic_variance(schedule, torch.zeros(64), data_variance=1.0)
    assert torch.equal(least, schedule.posterior_variance)


def test_variance_of_gaussian_data_is_within_the_published_bounds(schedule: NoiseSchedule) -> None:
    found = analytic_variance(schedule, clean_variances(schedule), data_variance=0.25)
    assert (found <= schedule.betas / schedule.alphas * (1 + 1e-12)).all()


def test_both_forms_of_the_published_formula_agree(schedule: NoiseSchedule) -> None:
    """With the mean square of the noise, and with that of the score."""
    noise_power = torch.linspace(0.999, 0.9, 64, dtype=torch.float64)
    level = schedule.alphas_bar
    score_power = noise_power / (1 - level)
    published = schedule.posterior_variance + schedule.betas**2 / (
        schedule.alphas * (1 - level)
    ) * (1 - (1 - level) * score_power)
    found = analytic_variance(
        schedule, clean_variance_from_noise(schedule, noise_power), data_variance=1e12
    )
    torch.testing.assert_close(found, published, rtol=1e-9, atol=0)


def test_noise_of_gaussian_data_tells_the_variance_of_clean_samples(
    schedule: NoiseSchedule,
) -> None:
    level = schedule.alphas_bar
    noise_power = (1 - level) / (level * 0.25 + 1 - level)  # of the best prediction
    torch.testing.assert_close(
        clean_variance_from_noise(schedule, noise_power), clean_variances(schedule)
    )
