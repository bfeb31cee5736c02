"""Random numbers for the samples of a batch, from a separate generator for each sample.

A sample's noise depends only on the seed, its position in the run and the purpose: micro-batches
and resumption change nothing.
"""

import torch
from torch import Tensor

from dalle_cli.data.shuffling import derive_seed


def gumbel_noise(
    seed: int, positions: list[int], *, shape: tuple[int, ...], device: torch.device
) -> Tensor:
    """Sample standard Gumbel noise: float32 [len(positions), *shape]."""
    uniform = uniforms(seed, positions, purpose="gumbel", shape=shape, device=device)
    return uniform.clamp_(min=torch.finfo(torch.float32).tiny).log_().neg_().log_().neg_()


def uniform_noise(
    seed: int, positions: list[int], *, shape: tuple[int, ...], device: torch.device
) -> Tensor:
    """Sample noise uniform in [-1/2, 1/2): float32 [len(positions), *shape]."""
    return uniforms(seed, positions, purpose="uniform", shape=shape, device=device).sub_(0.5)


def noisy_tokens(
    image_tokens: Tensor, vocab_size: int, *, noise: float, seed: int, positions: list[int]
) -> Tensor:
    """Replace a share of each sample's tokens by random ones; not in the paper.

    image_tokens  int64 [B, I]
    noise         the largest share; each sample's is uniform between 0 and this
    returns       int64 [B, I]
    """
    n_tokens = image_tokens.shape[1]
    numbers = uniforms(
        seed,
        positions,
        purpose="token noise",
        shape=(2 * n_tokens + 1,),
        device=image_tokens.device,
    )
    share, chances, values = numbers.split([1, n_tokens, n_tokens], dim=1)
    others = (values * vocab_size).long().clamp_(max=vocab_size - 1)
    return torch.where(chances < noise * share, others, image_tokens)


def normal_noise(
    seed: int,
    positions: list[int],
    *,
    purpose: str,
    shape: tuple[int, ...],
    device: torch.device,
) -> Tensor:
    """Sample standard normal noise: float32 [len(positions), *shape]."""
    noise = torch.empty(len(positions), *shape, device=device)
    for row, position in zip(noise, positions, strict=True):
        generator = torch.Generator(device).manual_seed(derive_seed(seed, position, purpose))
        torch.randn(shape, generator=generator, device=device, out=row)
    return noise


def timestep_indices(seed: int, positions: list[int], n_steps: int) -> Tensor:
    """Sample steps of a noise schedule, uniformly: int64 [len(positions)], on the CPU."""
    numbers = uniforms(
        seed, positions, purpose="timestep", shape=(1,), device=torch.device("cpu")
    ).squeeze(1)
    return (numbers.double() * n_steps).long().clamp_(max=n_steps - 1)


def uniforms(
    seed: int,
    positions: list[int],
    *,
    purpose: str,
    shape: tuple[int, ...],
    device: torch.device,
) -> Tensor:
    """Sample numbers uniform in [0, 1): float32 [len(positions), *shape]."""
    noise = torch.empty(len(positions), *shape, device=device)
    for row, position in zip(noise, positions, strict=True):
        generator = torch.Generator(device).manual_seed(derive_seed(seed, position, purpose))
        torch.rand(shape, generator=generator, device=device, out=row)
    return noise
