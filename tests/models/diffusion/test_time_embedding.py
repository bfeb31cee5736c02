"""Sinusoids against specified values and a restatement with loops."""

import math

import pytest
import torch

from dalle_cli.models.diffusion.time_embedding import TimeEmbedding, sinusoids

OF_WIDTH_8 = {
    1: [0.54030231, 0.99500417, 0.99995, 0.9999995, 0.84147098, 0.09983342, 0.00999983, 0.001],
    500: [
        *[-0.88384927, 0.96496603, 0.28366219, 0.87758256],
        *[-0.46777181, -0.26237485, -0.95892427, 0.47942554],
    ],
}


@pytest.mark.parametrize("timestep", OF_WIDTH_8)
def test_sinusoids_match_the_specified_values(timestep: int) -> None:
    found = sinusoids(torch.tensor([timestep]), 8)[0]
    expected = torch.tensor(OF_WIDTH_8[timestep], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


def test_sinusoids_are_those_of_a_restatement_with_loops() -> None:
    found = sinusoids(torch.tensor([0, 7, 999]), 32)
    for row, t in zip(found.tolist(), (0, 7, 999), strict=True):
        angles = [t * 10000 ** (-k / 16) for k in range(16)]
        assert row == pytest.approx([*map(math.cos, angles), *map(math.sin, angles)], abs=1e-9)


def test_embedding_is_two_linear_maps_of_the_sinusoids() -> None:
    torch.manual_seed(0)
    embedding = TimeEmbedding(8, 5)
    hidden = torch.nn.functional.silu(embedding.expand(sinusoids(torch.tensor([3]), 8).float()))
    torch.testing.assert_close(embedding(torch.tensor([3])), embedding.output(hidden))


def test_odd_width_is_refused() -> None:
    with pytest.raises(ValueError, match="even: 7"):
        TimeEmbedding(7, 4)(torch.tensor([1]))
