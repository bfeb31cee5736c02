"""Pictures from a decoder against plain loops, and inversion against its closed form."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_unclip import BOTH_DROPPED, decoder_parts, sampler, scorer

from dalle_cli.errors import UsageError
from dalle_cli.generation.unclip.caption_inputs import encode_with_clip
from dalle_cli.generation.unclip.noise import NoiseKey, gaussian_numbers
from dalle_cli.models.unclip.caption_encoders import CaptionInputs

KEYS = [NoiseKey(5, "cat", number) for number in range(3)]
SHAPE = (3, 16, 16)


@pytest.fixture(scope="module")
def embeddings() -> Tensor:
    return torch.randn(3, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def captions() -> CaptionInputs:
    return encode_with_clip(scorer(), ["a ring", "a red ring", "ring"]).states


def noise(index: int | str) -> Tensor:
    return gaussian_numbers(KEYS, stage="decoder", index=index, shape=SHAPE)


def sampled_by_a_loop(
    embeddings: Tensor, captions: CaptionInputs, *, guidance: float, n_steps: int = 5
) -> Tensor:
    """Sample by the formulas of ancestral sampling, one after another, in float64."""
    parts = decoder_parts()
    grid = sampler(parts, steps=n_steps).grid
    none, all_of_them = torch.zeros(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool)
    x = noise("start").double()
    for i in reversed(range(n_steps)):
        step = torch.full((3,), int(grid.timesteps[i]))
        given, null = (
            parts.decoder(x.float(), step, embeddings, captions, dropped, dropped).double()
            for dropped in (none, all_of_them)
        )
        eps = null[:, :3] + guidance * (given[:, :3] - null[:, :3])
        level, before = float(grid.alphas_bar[i]), float(grid.alphas_bar_before[i])
        beta = 1 - level / before

        clean = ((x - math.sqrt(1 - level) * eps) / math.sqrt(level)).clamp(-1, 1)
        mean = math.sqrt(before) * beta / (1 - level) * clean
        mean = mean + math.sqrt(1 - beta) * (1 - before) / (1 - level) * x
        share = (given[:, 3:] + 1) / 2
        smallest = float(grid.posterior_log_variance[i])
        log_variance = share * math.log(beta) + (1 - share) * smallest
        x = mean + (0.5 * log_variance).exp() * noise(i).double() if i else mean
    return ((x + 1) / 2).clamp(0, 1)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_pictures_are_those_of_the_formulas(
    guidance: float, embeddings: Tensor, captions: CaptionInputs
) -> None:
    images = sampler(guidance=guidance).sample(embeddings, captions, KEYS)
    expected = sampled_by_a_loop(embeddings, captions, guidance=guidance)
    torch.testing.assert_close(images.double(), expected, rtol=0, atol=2e-3)
    assert images.shape == (3, *SHAPE) and images.min() >= 0 and images.max() <= 1


def test_with_ddim_the_first_noise_alone_decides(embeddings: Tensor) -> None:
    one = sampler(sampler="ddim")
    others = [NoiseKey(6, "dog", number) for number in range(3)]
    start = one.start(KEYS)
    assert torch.equal(
        one.sample(embeddings, None, KEYS), one.sample(embeddings, None, others, start=start)
    )
    assert not torch.equal(
        one.with_eta(0.5).sample(embeddings, None, KEYS),
        one.with_eta(0.5).sample(embeddings, None, others, start=start),
    )


def test_each_picture_is_what_it_is_alone(embeddings: Tensor) -> None:
    one = sampler()
    together = one.sample(embeddings, None, KEYS)
    for i in range(3):
        alone = one.sample(embeddings[i : i + 1], None, KEYS[i : i + 1])
        torch.testing.assert_close(together[i], alone[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("sampling", ["ancestral", "ddim"])
def test_embeddings_count_unless_they_are_left_out(embeddings: Tensor, sampling: str) -> None:
    one = sampler(sampler=sampling)

    def images(given: Tensor, **options: Any) -> Tensor:
        return one.sample(given, None, KEYS, **options)

    assert not torch.equal(images(embeddings), images(embeddings.flip(0)))
    left_out = {"is_embedding_dropped": True}
    assert torch.equal(images(embeddings, **left_out), images(embeddings.flip(0), **left_out))


def test_pictures_without_captions_are_those_of_dropped_ones(
    embeddings: Tensor, captions: CaptionInputs
) -> None:
    one = sampler()
    empty = CaptionInputs(captions.values, torch.zeros_like(captions.is_given))
    without = one.sample(embeddings, None, KEYS)
    assert torch.equal(without, one.sample(embeddings, empty, KEYS))
    assert not torch.equal(without, one.sample(embeddings, captions, KEYS))


@pytest.mark.parametrize("n_steps", [2, 7, 40])
def test_noise_found_for_a_decoder_that_predicts_none_is_the_faded_picture(
    n_steps: int, embeddings: Tensor
) -> None:
    """Then each step back only scales, and DDIM paints the picture again, exactly."""
    one = sampler(decoder_parts(is_fresh=True), steps=n_steps, sampler="ddim")
    images = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    found = one.invert(images, embeddings)
    faded = float(one.grid.alphas_bar[-1]) ** 0.5 * (2 * images - 1)
    torch.testing.assert_close(found, faded, rtol=1e-4, atol=1e-9)
    again = one.sample(embeddings, None, KEYS, start=found)
    torch.testing.assert_close(again, images, rtol=0, atol=1e-4)


def test_inversion_is_neither_guided_nor_clipped(embeddings: Tensor) -> None:
    images = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    usual, guided = (sampler(guidance=g).invert(images, embeddings) for g in (1.0, 5.0))
    assert torch.equal(usual, guided)


def test_guidance_needs_a_decoder_that_was_trained_without_conditions() -> None:
    for never in BOTH_DROPPED:
        parts = decoder_parts(dropouts={**BOTH_DROPPED, never: 0.0})
        sampler(parts)
        with pytest.raises(UsageError, match=f"`loss.{never}` was 0"):
            sampler(parts, guidance=2.0)


def test_a_decoder_that_reads_no_captions_never_leaves_them_out() -> None:
    parts = decoder_parts(
        text_len=None, d_text=None, dropouts={**BOTH_DROPPED, "caption_dropout": 0.0}
    )
    one = sampler(parts, guidance=2.0)
    assert not one.reads_captions and one.sample(torch.ones(1, 32), None, KEYS[:1]).shape[0] == 1


def test_record_says_how_and_with_what() -> None:
    assert sampler(sampler="ddim", guidance=2.0).settings == {
        "steps": 5, "sampler": "ddim", "guidance": 2.0, "model": "weights",
    }  # fmt: skip
    parts = decoder_parts()._replace(step=12)
    assert sampler(parts).settings["checkpoint"] == 12


def test_memory_doubles_under_guidance() -> None:
    assert sampler(guidance=2.0).bytes_per_picture() == 2 * sampler().bytes_per_picture() > 0
