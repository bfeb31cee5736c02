"""Schedules, samplers and guidance against those of diffusers, step by step and as whole loops.

The peers hold their tables in fp32, where 1 - alpha_bar is off by 5e-4 of its value at the first
step: they are given float64 ones that follow from their own betas, so that formulas can be compared
closely.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from dalle_cli.models.diffusion.guided_net import guide
from dalle_cli.models.diffusion.hybrid_loss import learned_log_variance
from dalle_cli.models.diffusion.noise_schedules import (
    NoiseSchedule,
    noise_schedule,
    strided_steps,
)
from dalle_cli.models.diffusion.noising import add_noise
from dalle_cli.models.diffusion.samplers import (
    Denoiser,
    Target,
    invert_ddim,
    sample_ancestral,
    sample_ddim,
)
from dalle_cli.models.diffusion.time_embedding import sinusoids

SHAPE = (2, 3, 4, 4)
NAMES: dict[Target, str] = {"noise": "epsilon", "clean": "sample"}
COSINE = "squaredcos_cap_v2"
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
# learned log variances at steps 1, 487 and 999 in the peers' own tests, and by how many the fp32
# of their tables moves them
PUBLISHED_LOG_VARIANCES = {1: (-10.1712790, 1e-4), 487: (-5.7998052, 1e-6), 999: (-0.0010011, 1e-6)}
PUBLISHED_DEVIATIONS = {487: 0.0549625, 999: 0.9994987}

both_kinds = pytest.mark.parametrize(("kind", "name"), [("cosine", COSINE), ("linear", "linear")])


@pytest.fixture
def diffusers() -> Any:
    return pytest.importorskip("diffusers")


def in_float64(scheduler: Any) -> Any:
    """Recompute a peer's tables from its betas."""
    scheduler.betas = scheduler.betas.double()
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
    return scheduler


def random(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPE, generator=generator, dtype=torch.float64)


def noises(seed: int, n: int) -> list[Tensor]:
    """Return the noise at each index of a grid as the peers draw it, from the last one on."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(n)]
    return drawn[::-1]


def net(noisy: Tensor, timesteps: Tensor) -> Tensor:
    """Predict something that depends on the sample and on the step."""
    return torch.tanh(noisy * (1 + timesteps[0] / 1000))


def net_with_variances(noisy: Tensor, timesteps: Tensor) -> Tensor:
    return torch.cat([net(noisy, timesteps), noisy.sin()], dim=1)


def strided(n: int) -> NoiseSchedule:
    return noise_schedule("cosine", 1000).respaced(strided_steps(1000, [n]))


@both_kinds
def test_betas_and_levels_are_those_of_diffusers(diffusers: Any, kind: Any, name: str) -> None:
    theirs, ours = diffusers.DDPMScheduler(beta_schedule=name), noise_schedule(kind, 1000)
    torch.testing.assert_close(theirs.betas.double(), ours.betas, rtol=2e-6, atol=0)
    torch.testing.assert_close(theirs.alphas_cumprod.double(), ours.alphas_bar, rtol=1e-4, atol=0)
    exact = in_float64(theirs).alphas_cumprod
    torch.testing.assert_close(1 - exact, 1 - ours.alphas_bar, rtol=1e-6, atol=0)


@both_kinds
def test_noisy_samples_are_those_of_diffusers(diffusers: Any, kind: Any, name: str) -> None:
    theirs, index = diffusers.DDPMScheduler(beta_schedule=name), torch.tensor([0, 731])
    clean, noise = random(0).float(), random(1).float()
    found = add_noise(noise_schedule(kind, 1000), clean, noise=noise, index=index)
    torch.testing.assert_close(found, theirs.add_noise(clean, noise, index), **CLOSE)


@pytest.mark.parametrize("width", [8, 64])
def test_sinusoids_are_those_of_diffusers(diffusers: Any, width: int) -> None:
    from diffusers.models.embeddings import get_timestep_embedding

    steps = torch.tensor([0, 1, 500, 999])
    theirs = get_timestep_embedding(steps, width, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(sinusoids(steps, width).float(), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("step", PUBLISHED_LOG_VARIANCES)
def test_log_variances_are_those_of_the_peers_own_tests(step: int) -> None:
    expected, tolerance = PUBLISHED_LOG_VARIANCES[step]
    half = torch.full((1, 1), 0.5, dtype=torch.float64)
    found = learned_log_variance(noise_schedule("cosine", 1000), half, index=step)
    assert float(found) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("step", PUBLISHED_DEVIATIONS)
def test_deviations_are_those_of_the_peers_own_tests(step: int) -> None:
    found = noise_schedule("cosine", 1000).posterior_variance[step].sqrt()
    assert float(found) == pytest.approx(PUBLISHED_DEVIATIONS[step], abs=1e-6)


@pytest.mark.parametrize("n", [7, 25, 64])
@pytest.mark.parametrize(
    ("predicts", "variance"), [("clean", "fixed_small_log"), ("noise", "learned_range")]
)
def test_ancestral_sampling_is_that_of_unclip_in_diffusers(
    diffusers: Any, n: int, predicts: Target, variance: str
) -> None:
    """The schedulers with which public weights of the prior and of the decoder come."""
    scheduler = in_float64(
        diffusers.UnCLIPScheduler(
            prediction_type=NAMES[predicts],
            variance_type=variance,
            clip_sample=True,
            clip_sample_range=1.0,
        )
    )
    scheduler.set_timesteps(n)
    schedule = strided(n)
    assert scheduler.timesteps.flip(0).tolist() == schedule.timesteps.tolist()

    is_learned = variance == "learned_range"
    network = net_with_variances if is_learned else net
    x, generator = random(0), torch.Generator().manual_seed(1)
    for t, before in zip(scheduler.timesteps, [*scheduler.timesteps[1:], None], strict=True):
        output = network(x, t[None])
        x = scheduler.step(output, t, x, prev_timestep=before, generator=generator).prev_sample

    log_variances = None if is_learned else schedule.posterior_log_variance
    denoiser = Denoiser(network, schedule, predicts, limit=1.0, log_variances=log_variances)
    found = sample_ancestral(denoiser, random(0), noises(1, n).__getitem__)
    torch.testing.assert_close(found, x, **CLOSE)


@both_kinds
@pytest.mark.parametrize("predicts", NAMES)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
def test_ancestral_sampling_is_that_of_ddpm_in_diffusers(
    diffusers: Any, kind: Any, name: str, predicts: Target, variance: str
) -> None:
    n = 25
    scheduler = in_float64(
        diffusers.DDPMScheduler(
            beta_schedule=name,
            prediction_type=NAMES[predicts],
            variance_type=variance,
            timestep_spacing="linspace",
        )
    )
    scheduler.set_timesteps(n)
    schedule = noise_schedule(kind, 1000).respaced(strided_steps(1000, [n]))
    assert scheduler.timesteps.flip(0).tolist() == schedule.timesteps.tolist()

    network = net_with_variances if variance == "learned_range" else net
    x, generator = random(2), torch.Generator().manual_seed(3)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t[None]), t, x, generator=generator).prev_sample

    log_variances = {
        "fixed_small": schedule.posterior_log_variance,
        "fixed_large": schedule.betas.log(),
    }.get(variance)
    denoiser = Denoiser(network, schedule, predicts, limit=1.0, log_variances=log_variances)
    found = sample_ancestral(denoiser, random(2), noises(3, n).__getitem__)
    torch.testing.assert_close(found, x, **CLOSE)


@both_kinds
@pytest.mark.parametrize("predicts", NAMES)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_that_of_diffusers(
    diffusers: Any, kind: Any, name: str, predicts: Target, eta: float
) -> None:
    n = 20
    scheduler = in_float64(
        diffusers.DDIMScheduler(beta_schedule=name, prediction_type=NAMES[predicts])
    )
    scheduler.set_timesteps(n)
    schedule = noise_schedule(kind, 1000).respaced(scheduler.timesteps.flip(0).tolist())

    x, added = random(4), noises(5, n)
    for index, t in zip(reversed(range(n)), scheduler.timesteps, strict=True):
        step = {"eta": eta, "variance_noise": added[index]}
        output = net(x, t[None])
        x = scheduler.step(output, t, x, use_clipped_model_output=True, **step).prev_sample

    denoiser = Denoiser(net, schedule, predicts, limit=1.0, log_variances=schedule.betas.log())
    found = sample_ddim(denoiser, random(4), eta=eta, noise_at=added.__getitem__)
    torch.testing.assert_close(found, x, **CLOSE)


@both_kinds
def test_inversion_of_ddim_is_that_of_diffusers(diffusers: Any, kind: Any, name: str) -> None:
    """Of a network that predicts the noise: the peer takes another's clean sample as it is."""
    scheduler = in_float64(diffusers.DDIMInverseScheduler(beta_schedule=name, clip_sample=False))
    scheduler.set_timesteps(20)
    schedule = noise_schedule(kind, 1000).respaced(scheduler.timesteps.tolist())

    x = random(6)
    for t in scheduler.timesteps:
        x = scheduler.step(net(x, t[None]), t, x).prev_sample

    denoiser = Denoiser(net, schedule, "noise", limit=None, log_variances=schedule.betas.log())
    torch.testing.assert_close(invert_ddim(denoiser, random(6)), x, **CLOSE)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.5])
def test_guidance_is_that_of_diffusers(diffusers: Any, guidance: float) -> None:
    peer = diffusers.ClassifierFreeGuidance(guidance_scale=guidance)
    expected = peer.forward(random(7), random(8)).pred
    found = guide(random(7), random(8), guidance=guidance, n_guided=3)
    torch.testing.assert_close(found, expected)
