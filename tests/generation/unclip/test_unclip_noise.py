"""Noise of pictures: what it depends on, and how it is distributed."""

import itertools

import torch

from dalle_cli.generation.unclip.noise import NoiseKey, gaussian_numbers, uniform_numbers

KEYS = [NoiseKey(0, "a ring", number) for number in range(4)]


def test_numbers_of_a_picture_do_not_depend_on_its_batch() -> None:
    together = gaussian_numbers(KEYS, stage="prior", index=3, shape=(2, 5))
    alone = [gaussian_numbers([key], stage="prior", index=3, shape=(2, 5)) for key in KEYS]
    assert torch.equal(together, torch.cat(alone))
    uniform = uniform_numbers(KEYS, stage="prior", n=7)
    assert torch.equal(uniform, torch.cat([uniform_numbers([k], stage="prior", n=7) for k in KEYS]))


def test_every_part_of_a_key_and_of_a_step_makes_other_numbers() -> None:
    keys = [NoiseKey(*parts) for parts in itertools.product((0, 1), ("a", "b"), (0, 1))]
    steps = itertools.product(("prior", "decoder"), ("start", 0, 1))
    found = [
        tuple(gaussian_numbers([key], stage=stage, index=index, shape=(3,))[0].tolist())
        for (stage, index), key in itertools.product(steps, keys)
    ]
    assert len(set(found)) == len(found) == 48


def test_numbers_are_distributed_as_they_should_be() -> None:
    normal = gaussian_numbers(KEYS, stage="prior", index="start", shape=(5000,))
    assert abs(float(normal.mean())) < 0.03 and abs(float(normal.std()) - 1) < 0.03
    uniform = uniform_numbers(KEYS, stage="prior", n=5000)
    assert float(uniform.min()) >= 0 and float(uniform.max()) < 1
    assert abs(float(uniform.mean()) - 0.5) < 0.01 and uniform.dtype == torch.float64
