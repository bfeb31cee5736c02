"""Learned variances and the variational bound, against specified values and definitions."""

import math

import pytest
import torch
from torch import Tensor

from dalle_cli.models.diffusion.hybrid_loss import (
    gaussian_kl,
    hybrid_loss,
    learned_log_variance,
    pixel_nll,
    variational_bound,
)
from dalle_cli.models.diffusion.noise_schedules import noise_schedule
from dalle_cli.models.diffusion.noising import add_noise, clean_from_noise, posterior_mean

LOG_VARIANCES = {  # of the cosine schedule, for outputs of -1, 0, 0.5 and 1
    0: (-10.734082532, -10.414556314, -10.254793206, -10.095030097),
    1: (-10.734082532, -10.358937426, -10.171364872, -9.983792319),
    500: (-5.761621845, -5.760084747, -5.759316198, -5.758547650),
    999: (-0.001002927, -0.001001714, -0.001001107, -0.001000500),
}


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Pictures with 256 levels at steps early and late, in float64."""
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(256, (6, 3, 4, 4), generator=generator)
    clean = levels.double() / 127.5 - 1
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    index = torch.tensor([0, 1, 10, 300, 700, 999])
    noisy = add_noise(noise_schedule("cosine", 1000), clean, noise=noise, index=index)
    return {"clean": clean, "noise": noise, "noisy": noisy, "index": index}


def without_noise(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: batch[name] for name in ("clean", "noisy", "index")}


@pytest.mark.parametrize("index", LOG_VARIANCES)
def test_log_variance_matches_the_specified_values(index: int) -> None:
    outputs = torch.tensor([[-1.0, 0.0, 0.5, 1.0]], dtype=torch.float64)
    found = learned_log_variance(noise_schedule("cosine", 1000), outputs, index=index)
    assert [f"{x:.9f}" for x in found[0].tolist()] == [f"{x:.9f}" for x in LOG_VARIANCES[index]]


def test_log_variance_in_fp32_is_within_1e_5_of_float64() -> None:
    schedule, index = noise_schedule("cosine", 1000), torch.arange(1000)
    outputs = torch.randn(1000, 4, generator=torch.Generator().manual_seed(5))
    found = learned_log_variance(schedule, outputs, index=index)
    exact = learned_log_variance(schedule, outputs.double(), index=index)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_divergence_matches_the_specified_value() -> None:
    schedule = noise_schedule("cosine", 1000)
    log_variance = learned_log_variance(schedule, torch.zeros(1, 1).double(), index=500)
    nats = gaussian_kl(
        number(0.3), schedule.posterior_log_variance[500], number(0.31), log_variance
    )
    assert float(nats) == pytest.approx(0.0158693516, abs=5e-11)
    assert float(nats) / math.log(2) == pytest.approx(0.0228946348, abs=5e-11)


def test_divergence_is_the_integral_of_its_definition() -> None:
    x = torch.linspace(-30, 30, 200_001, dtype=torch.float64)
    mean, other_mean, deviation, other_deviation = 0.4, -1.1, 0.8, 1.7
    p = torch.distributions.Normal(number(mean), number(deviation)).log_prob(x)
    q = torch.distributions.Normal(number(other_mean), number(other_deviation)).log_prob(x)
    integral = torch.trapezoid(p.exp() * (p - q), x)
    found = gaussian_kl(
        number(mean),
        number(2 * math.log(deviation)),
        number(other_mean),
        number(2 * math.log(other_deviation)),
    )
    torch.testing.assert_close(found, integral, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("clean", "mean", "nats"), [(0.1, 0.08, 8.4128301556), (-1.0, -0.99, 2.3371135483)]
)
def test_pixel_probability_matches_the_specified_values(clean, mean, nats) -> None:
    found = pixel_nll(number(clean), mean=number(mean), log_deviation=number(-5.3670412662))
    assert float(found) == pytest.approx(nats, abs=1e-9)  # the deviation is rounded as well


def test_probabilities_of_all_levels_sum_to_one() -> None:
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    nats = pixel_nll(levels, mean=number(0.4), log_deviation=number(math.log(0.3)))
    assert float((-nats).exp().sum()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("predicts", ["noise", "clean"])
def test_bound_is_the_divergence_of_two_steps_back_and_a_likelihood_at_first(
    predicts, batch
) -> None:
    schedule = noise_schedule("cosine", 1000)
    output = torch.randn(6, 6, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    found = variational_bound(schedule, output, predicts=predicts, **without_noise(batch))

    for row, t in enumerate(batch["index"].tolist()):
        clean, noisy = batch["clean"][row : row + 1], batch["noisy"][row : row + 1]
        guess, share = output[row : row + 1].chunk(2, dim=1)
        if predicts == "noise":
            guess = clean_from_noise(schedule, guess, noisy=noisy, index=t)
        mean = posterior_mean(schedule, guess, noisy=noisy, index=t)
        log_variance = learned_log_variance(schedule, share, index=t)
        true = posterior_mean(schedule, clean, noisy=noisy, index=t)
        if t == 0:
            nats = pixel_nll(clean, mean=mean, log_deviation=log_variance / 2)
        else:
            nats = torch.distributions.kl_divergence(
                torch.distributions.Normal(true, schedule.posterior_variance[t].sqrt()),
                torch.distributions.Normal(mean, (log_variance / 2).exp()),
            )
        torch.testing.assert_close(found[row], nats.mean() / math.log(2))


@pytest.mark.parametrize("predicts", ["noise", "clean"])
def test_bound_trains_the_variances_alone(predicts, batch) -> None:
    output = torch.zeros(6, 6, 4, 4, dtype=torch.float64, requires_grad=True)
    bound = variational_bound(
        noise_schedule("cosine", 1000), output, predicts=predicts, **without_noise(batch)
    )
    bound.sum().backward()
    assert output.grad is not None
    assert not output.grad[:, :3].any() and output.grad[:, 3:].any()


@pytest.mark.parametrize("predicts", ["noise", "clean"])
@pytest.mark.parametrize(("n_steps", "weight"), [(1000, 1.0), (250, 0.25)])
def test_bound_of_a_step_weighs_a_thousandth_of_the_number_of_steps(
    n_steps, weight, predicts
) -> None:
    schedule = noise_schedule("cosine", n_steps)
    generator = torch.Generator().manual_seed(2)
    clean, noise = torch.rand(2, 3, 1, 5, 5, generator=generator, dtype=torch.float64)
    output = torch.randn(3, 2, 5, 5, generator=generator, dtype=torch.float64)
    index = torch.tensor([0, 17, n_steps - 1])
    noisy = add_noise(schedule, clean, noise=noise, index=index)
    given = {"predicts": predicts, "clean": clean, "noisy": noisy, "index": index}
    error, bound = hybrid_loss(schedule, output, noise=noise, **given)
    target = {"noise": noise, "clean": clean}[predicts]
    torch.testing.assert_close(error, (output[:, :1] - target).square().mean(dim=(1, 2, 3)))
    whole = variational_bound(schedule, output, **given)
    torch.testing.assert_close(bound, weight * whole)


def test_initial_error_of_a_network_that_starts_at_zero_is_one() -> None:
    schedule = noise_schedule("cosine", 1000)
    clean, noise = torch.randn(2, 64, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    index = torch.arange(64) * 15
    noisy = add_noise(schedule, clean, noise=noise, index=index)
    given = {"clean": clean, "noise": noise, "noisy": noisy, "index": index}
    error, _ = hybrid_loss(schedule, torch.zeros(64, 6, 16, 16), predicts="noise", **given)
    assert float(error.mean()) == pytest.approx(1, abs=0.02)


def test_network_without_variances_has_no_bound(batch) -> None:
    schedule = noise_schedule("cosine", 1000)
    error, bound = hybrid_loss(schedule, torch.zeros(6, 3, 4, 4), predicts="noise", **batch)
    torch.testing.assert_close(error, batch["noise"].square().mean(dim=(1, 2, 3)))
    assert not bound.any()


def test_bound_is_finite_and_close_to_float64_in_fp32(batch) -> None:
    schedule = noise_schedule("cosine", 1000)
    output = 0.1 * torch.randn(6, 6, 4, 4, generator=torch.Generator().manual_seed(4))
    output[:, :3] += batch["noise"].float()  # nearly right, as a trained network is
    _, exact = hybrid_loss(schedule, output.double(), predicts="noise", **batch)
    single = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in batch.items()
    }
    _, found = hybrid_loss(schedule, output, predicts="noise", **single)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)
