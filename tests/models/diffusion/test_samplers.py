"""Samplers against specified values, and against data whose best predictions are known."""

import math

import pytest
import torch
from gaussian import MEAN, best_noise, clean_variances, drawn_distribution
from torch import Tensor

from dalle_cli.models.diffusion.analytic_variance import analytic_variance
from dalle_cli.models.diffusion.noise_schedules import (
    NoiseSchedule,
    noise_schedule,
    strided_steps,
)
from dalle_cli.models.diffusion.noising import add_noise
from dalle_cli.models.diffusion.samplers import (
    Denoised,
    Denoiser,
    ancestral_step,
    ddim_step,
    invert_ddim,
    sample_ancestral,
    sample_ddim,
)

DDIM = [  # index of the 27-step grid: x, then x before for eta 0, and deviation, mean for 0.5 and 1
    (13, -0.5023660127, -0.4305138073, (0.1536512373, -0.4090401459),
     (0.3073024745, -0.3407468920)),
    (1, 0.4121639548, 0.4922793427, (0.0031999280, 0.4933035479), (0.0063998560, 0.4993044509)),
    (0, 0.4922793427, 0.5, (0.0, 0.5), (0.0, 0.5)),
]  # fmt: skip
INVERTED = {  # noise found for a clean sample of 0.8, and the error of sampling from it
    1000: (1.0032469468, 0.0008027573),
    250: (1.0102151662, 0.0019474735),
    50: (1.0362514886, 0.0020958623),
    27: (1.0567336885, -0.0019685459),
    15: (1.0836824639, -0.0145725406),
}
DEVIATIONS = {  # of what samplers draw, where the data have 0.5
    ("cosine", 1000): (0.497993, 0.500418, 0.499959, 0.499189),
    ("cosine", 250): (0.492438, 0.501808, 0.499959, 0.496879),
    ("cosine", 64): (0.473605, 0.507307, 0.499959, 0.487913),
    ("cosine", 27): (0.444772, 0.517945, 0.499959, 0.471300),
    ("cosine", 15): (0.411887, 0.533797, 0.499959, 0.447949),
    ("linear", 64): (0.453558, 0.513596, 0.499900, 0.477987),
    ("linear", 15): (0.363547, 0.563505, 0.499900, 0.407681),
}
DDIM_MEANS = {("linear", 64): 0.299089, ("linear", 15): 0.299223}


def grid(n: int, kind="cosine") -> NoiseSchedule:
    return noise_schedule(kind, 1000).respaced(strided_steps(1000, [n]))


def gaussian_denoiser(schedule: NoiseSchedule, log_variances: Tensor) -> Denoiser:
    net = best_noise(schedule)
    return Denoiser(net, schedule, "noise", limit=None, log_variances=log_variances)


@pytest.mark.parametrize("row", DDIM, ids=lambda row: f"index {row[0]}")
def test_ddim_step_matches_the_specified_values(row) -> None:
    index, x, before, *random = row
    schedule = grid(27)
    clean, noise = torch.tensor([[[0.5]], [[-1.2]]], dtype=torch.float64)
    noisy = add_noise(schedule, clean, noise=noise, index=index)
    assert float(noisy) == pytest.approx(x, abs=5e-11)

    denoised = Denoised(clean, noise, torch.zeros(()))
    zero, one = torch.zeros(1, 1).double(), torch.ones(1, 1).double()
    found = ddim_step(schedule, denoised, index=index, eta=0.0, noise=None)
    assert float(found) == pytest.approx(before, abs=5e-11)
    for eta, (deviation, mean) in zip((0.5, 1.0), random, strict=True):
        at_mean = ddim_step(schedule, denoised, index=index, eta=eta, noise=zero)
        above = ddim_step(schedule, denoised, index=index, eta=eta, noise=one)
        assert float(at_mean) == pytest.approx(mean, abs=5e-11)
        assert float(above - at_mean) == pytest.approx(deviation, abs=5e-11)


@pytest.mark.parametrize("index", [1, 13, 26])
def test_ddim_with_eta_one_is_ancestral_sampling(index: int) -> None:
    schedule, generator = grid(27), torch.Generator().manual_seed(0)
    clean, noise, fresh = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    noisy = add_noise(schedule, clean, noise=noise, index=index)
    denoised = Denoised(clean, noise, schedule.posterior_log_variance[index])
    torch.testing.assert_close(
        ddim_step(schedule, denoised, index=index, eta=1.0, noise=fresh),
        ancestral_step(schedule, denoised, noisy=noisy, index=index, noise=fresh),
    )


@pytest.mark.parametrize("n", INVERTED)
def test_inversion_finds_the_specified_noise_which_samples_the_picture_again(n: int) -> None:
    schedule = grid(n)
    denoiser = gaussian_denoiser(schedule, schedule.posterior_log_variance)
    clean = torch.full((1, 1), 0.8, dtype=torch.float64)
    found = invert_ddim(denoiser, clean)
    noise, error = INVERTED[n]
    assert float(found) == pytest.approx(noise, abs=2e-10)
    assert float(sample_ddim(denoiser, found) - clean) == pytest.approx(error, abs=2e-10)


@pytest.mark.parametrize(("kind", "n"), DEVIATIONS)
def test_samplers_draw_the_specified_distributions(kind, n: int) -> None:
    schedule = grid(n, kind)
    expected = DEVIATIONS[kind, n]
    optimal = analytic_variance(schedule, clean_variances(schedule), data_variance=1.0)
    small, large = schedule.posterior_variance, schedule.betas

    for variances, deviation in zip((small, large, optimal), expected, strict=False):
        log_variances = variances.clamp(min=1e-30).log()
        denoiser = gaussian_denoiser(schedule, log_variances)

        def ancestral(x: Tensor, index: int, denoiser=denoiser, variances=variances):
            step = ancestral_step(schedule, denoiser(x, index), noisy=x, index=index, noise=None)
            return step, float(variances[index]) if index else 0.0

        mean, found = drawn_distribution(ancestral, n)
        assert f"{found:.6f}" == f"{deviation:.6f}"
        assert mean == pytest.approx(MEAN, abs=1e-5)

    def ddim(x: Tensor, index: int):
        return ddim_step(schedule, denoiser(x, index), index=index, eta=0.0, noise=None), 0.0

    mean, found = drawn_distribution(ddim, n)
    assert f"{found:.6f}" == f"{expected[3]:.6f}"
    assert mean == pytest.approx(DDIM_MEANS.get((kind, n), MEAN), abs=1e-5)


def test_sampling_loop_adds_the_noise_of_each_index_but_the_first() -> None:
    schedule = grid(7)
    denoiser = gaussian_denoiser(schedule, schedule.posterior_log_variance)
    noises = torch.randn(7, 3, 1, generator=torch.Generator().manual_seed(1)).double()
    start, asked = torch.tensor([[-1.0], [0.0], [2.0]]).double(), []

    def noise_at(index: int) -> Tensor:
        asked.append(index)
        return noises[index]

    found = sample_ancestral(denoiser, start, noise_at)
    assert asked == [6, 5, 4, 3, 2, 1]

    x = start
    for index in (6, 5, 4, 3, 2, 1, 0):
        net_noise = best_noise(schedule)(x, schedule.timesteps[index].expand(3))
        level, before = schedule.alphas_bar[index], schedule.alphas_bar_before[index]
        clean = (x - (1 - level).sqrt() * net_noise) / level.sqrt()
        x = schedule.mean_from_clean[index] * clean + schedule.mean_from_noisy[index] * x
        if index:
            variance = schedule.betas[index] * (1 - before) / (1 - level)
            x = x + variance.sqrt() * noises[index]
    torch.testing.assert_close(found, x)


def test_networks_are_told_training_steps_on_any_grid() -> None:
    schedule, told = grid(7), []

    def net(noisy: Tensor, timesteps: Tensor) -> Tensor:
        assert timesteps.dtype == torch.int64 and len(timesteps) == len(noisy)
        told.append(int(timesteps[0]))
        return noisy

    denoiser = Denoiser(net, schedule, "clean", limit=None, log_variances=schedule.betas.log())
    sample_ddim(denoiser, torch.zeros(2, 3))
    assert told == [999, 832, 666, 500, 333, 166, 0]


def test_noise_belongs_to_the_clean_sample_after_clipping() -> None:
    schedule = grid(27)
    denoiser = Denoiser(
        lambda noisy, timesteps: torch.full_like(noisy, -0.7),
        schedule,
        "noise",
        limit=1.0,
        log_variances=schedule.posterior_log_variance,
    )
    noisy = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    clean, noise, _ = denoiser(noisy, 20)
    assert clean.abs().max() == 1 and clean.abs().min() < 1
    torch.testing.assert_close(add_noise(schedule, clean, noise=noise, index=20), noisy)


def test_learned_variances_are_those_of_the_grid() -> None:
    schedule = grid(7)
    output = torch.tensor([[0.0, -1.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    denoiser = Denoiser(
        lambda noisy, timesteps: output, schedule, "noise", limit=None, log_variances=None
    )
    found = denoiser(torch.zeros(3, 1, dtype=torch.float64), 3).log_variance.flatten()
    smallest, largest = schedule.posterior_log_variance[3], schedule.betas[3].log()
    expected = torch.stack([smallest, largest, (smallest + largest) / 2])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("predicts", ["noise", "clean"])
def test_sampling_in_fp32_is_close_to_float64(predicts) -> None:
    schedule = grid(64)
    net = best_noise(schedule)
    if predicts == "clean":
        levels = dict(zip(schedule.timesteps.tolist(), schedule.alphas_bar.tolist(), strict=True))

        def net(noisy: Tensor, timesteps: Tensor) -> Tensor:
            level = levels[int(timesteps[0])]
            spread = level * 0.25 + 1 - level
            return 0.3 + level**0.5 * 0.25 / spread * (noisy - level**0.5 * 0.3)

    denoiser = Denoiser(
        net, schedule, predicts, limit=6.0, log_variances=schedule.posterior_log_variance
    )
    noises = torch.randn(65, 8, 1, generator=torch.Generator().manual_seed(3))
    found = sample_ancestral(denoiser, noises[64], lambda index: noises[index])
    exact = sample_ancestral(denoiser, noises[64].double(), lambda index: noises[index].double())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_ddim_and_its_inversion_in_fp32_are_close_to_float64() -> None:
    schedule = grid(64)
    denoiser = gaussian_denoiser(schedule, schedule.posterior_log_variance)
    noises = torch.randn(65, 8, 1, generator=torch.Generator().manual_seed(5))

    def ends(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        x = noises.to(dtype)
        sampled = sample_ddim(denoiser, x[64], eta=0.5, noise_at=x.__getitem__)
        return sampled, invert_ddim(denoiser, x[0])

    found, exact = ends(torch.float32), ends(torch.float64)
    for single, double in zip(found, exact, strict=True):
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


def test_what_can_not_be_sampled_is_refused() -> None:
    schedule = grid(7)
    clipped = Denoiser(
        best_noise(schedule), schedule, "noise", limit=1.0, log_variances=schedule.betas.log()
    )
    with pytest.raises(ValueError, match=r"clips to 1\.0"):
        invert_ddim(clipped, torch.zeros(1, 1))
    with pytest.raises(ValueError, match=r"eta 0\.5 needs noise"):
        sample_ddim(clipped, torch.zeros(1, 1), eta=0.5)


def test_deviation_of_many_draws_is_the_datas() -> None:
    """The loop as a whole, with random numbers: 40,000 draws tell 0.5 within 1 %."""
    schedule = grid(64)
    optimal = analytic_variance(schedule, clean_variances(schedule), data_variance=1.0)
    denoiser = gaussian_denoiser(schedule, optimal.log())
    generator = torch.Generator().manual_seed(4)
    drawn = sample_ancestral(
        denoiser,
        torch.randn(40_000, 1, generator=generator).double(),
        lambda index: torch.randn(40_000, 1, generator=generator).double(),
    )
    assert float(drawn.std()) == pytest.approx(0.5, rel=0.01)
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=4 * 0.5 / math.sqrt(40_000))
