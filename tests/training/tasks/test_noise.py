"""Noise: of the right distribution, and each sample's own."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from dalle_cli.training.tasks.noise import (
    gumbel_noise,
    noisy_tokens,
    normal_noise,
    timestep_indices,
    uniform_noise,
    uniforms,
)

CPU = torch.device("cpu")
Noise = Callable[..., Tensor]
KINDS = [
    gumbel_noise,
    uniform_noise,
    partial(normal_noise, purpose="noise"),
    partial(uniforms, purpose="dropped"),
]


def test_gumbel_noise_has_the_moments_of_the_gumbel_distribution() -> None:
    noise = gumbel_noise(0, list(range(20)), shape=(10_000,), device=CPU).double()
    sigma = math.pi / math.sqrt(6)
    assert noise.dtype == torch.float64 and torch.isfinite(noise).all()
    assert float(noise.mean()) == pytest.approx(0.5772157, abs=5 * sigma / noise.numel() ** 0.5)
    assert float(noise.var()) == pytest.approx(sigma**2, rel=0.03)
    below = float((noise < 0).double().mean())
    assert below == pytest.approx(math.exp(-1), abs=0.006)


def test_the_largest_noisy_logit_is_distributed_as_the_softmax() -> None:
    n = 20_000
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    noise = gumbel_noise(1, [7], shape=(n, 4), device=CPU)[0]
    shares = (logits + noise).argmax(dim=1).bincount(minlength=4) / n
    expected = logits.softmax(dim=0)
    assert ((shares - expected).abs() < 5 * (expected * (1 - expected) / n).sqrt()).all()


def test_uniform_noise_is_uniform_around_zero() -> None:
    noise = uniform_noise(0, list(range(20)), shape=(10_000,), device=CPU)
    assert noise.min() >= -0.5 and noise.max() < 0.5
    shares = torch.histc(noise, bins=10, min=-0.5, max=0.5) / noise.numel()
    assert (shares - 0.1).abs().max() < 5 * (0.09 / noise.numel()) ** 0.5


@pytest.mark.parametrize("noise", KINDS)
def test_noise_of_a_sample_does_not_depend_on_its_batch(noise: Noise) -> None:
    together = noise(3, [4, 9, 2, 7], shape=(5, 3), device=CPU)
    assert together.shape == (4, 5, 3) and together.dtype == torch.float32
    for row, draw in zip(together, (4, 9, 2, 7), strict=True):
        assert torch.equal(row, noise(3, [draw], shape=(5, 3), device=CPU)[0])


@pytest.mark.parametrize("noise", KINDS)
def test_noise_depends_on_seed_and_draw(noise: Noise) -> None:
    rows = [
        noise(seed, [draw], shape=(8,), device=CPU)[0]
        for seed, draw in ((0, 0), (0, 1), (1, 0), (1, 23), (12, 3))
    ]
    assert len({tuple(row.tolist()) for row in rows}) == len(rows)


@pytest.mark.parametrize("noise", KINDS)
def test_noise_neither_reads_nor_touches_the_global_generator(noise: Noise) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = noise(0, [1], shape=(8,), device=CPU)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(noise(0, [1], shape=(8,), device=CPU), first)


def test_noise_on_pixels_and_on_logits_of_a_sample_is_unrelated() -> None:
    n = 10_000
    gumbel, uniform = (
        gumbel_noise(0, [5], shape=(n,), device=CPU)[0],
        uniform_noise(0, [5], shape=(n,), device=CPU)[0],
    )
    ranks = torch.exp(-torch.exp(-gumbel))
    assert torch.corrcoef(torch.stack([ranks, uniform]))[0, 1].abs() < 5 / n**0.5


def test_noisy_tokens_are_random_up_to_the_given_share() -> None:
    tokens = torch.full((500, 400), 7)
    noisy = noisy_tokens(tokens, 32, noise=0.8, seed=0, positions=list(range(500)))
    shares = (noisy != tokens).double().mean(dim=1)  # 1 of 32 random tokens is the same
    expected = 0.8 * 31 / 32
    assert shares.min() < 0.02 * expected and 0.9 * expected < shares.max() < 1.1 * expected
    assert float(shares.mean()) == pytest.approx(expected / 2, rel=0.1)
    others = noisy[noisy != tokens].bincount(minlength=32).double()
    assert others[7] == 0 and (others[others > 0] / others.sum() * 31 - 1).abs().max() < 0.1


def test_noisy_tokens_of_a_sample_do_not_depend_on_its_batch() -> None:
    tokens = torch.arange(64).reshape(2, 32)
    both = noisy_tokens(tokens, 64, noise=0.9, seed=3, positions=[5, 9])
    alone = noisy_tokens(tokens[1:], 64, noise=0.9, seed=3, positions=[9])
    assert torch.equal(both[1:], alone) and not torch.equal(both, tokens)


def test_normal_noise_is_standard_normal() -> None:
    noise = normal_noise(0, list(range(20)), purpose="noise", shape=(10_000,), device=CPU).double()
    assert float(noise.mean()) == pytest.approx(0, abs=5 / noise.numel() ** 0.5)
    assert float(noise.var()) == pytest.approx(1, rel=0.03)
    assert float((noise < -1).double().mean()) == pytest.approx(0.1586553, abs=0.005)


def test_noise_of_one_purpose_says_nothing_of_another() -> None:
    shape = (1000,)
    one, other = (
        normal_noise(0, [5], purpose=purpose, shape=shape, device=CPU)[0]
        for purpose in ("noise", "sample 3")
    )
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.2


def test_timesteps_are_uniform_over_the_schedule_and_each_samples_own() -> None:
    n, n_steps = 4000, 10
    index = timestep_indices(1, list(range(n)), n_steps)
    assert index.dtype == torch.int64 and index.device == CPU
    shares = index.bincount(minlength=n_steps) / n
    assert len(shares) == n_steps
    assert (shares - 1 / n_steps).abs().max() < 5 * (0.09 / n) ** 0.5
    assert timestep_indices(1, [7, 3], n_steps).tolist() == [int(index[7]), int(index[3])]
