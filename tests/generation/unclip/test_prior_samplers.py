"""Embeddings for captions: from both kinds of prior, from texts, and from nothing."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toy_unclip import (
    code_prior_parts,
    diffusion_prior_parts,
    guesser,
    scorer,
)

from dalle_cli.errors import UsageError
from dalle_cli.generation.unclip.caption_inputs import encode_with_clip
from dalle_cli.generation.unclip.noise import NoiseKey, gaussian_numbers
from dalle_cli.generation.unclip.prior_samplers import NoGuesser, TextGuesser
from dalle_cli.loading.prior_variances import PriorVariances
from dalle_cli.models.diffusion.noise_schedules import noise_schedule, strided_steps
from dalle_cli.models.diffusion.noising import posterior_mean

CAPTIONS = ["a ring", "a red ring", "", "a ring"]
KEYS = [NoiseKey(7, caption, number) for number, caption in enumerate(CAPTIONS)]
PARTS = {"diffusion": diffusion_prior_parts, "codes": code_prior_parts}
every_kind = pytest.mark.parametrize("kind", PARTS)


def guessed(one: Any, captions: list[str] = CAPTIONS, keys: list[NoiseKey] = KEYS) -> Tensor:
    return one.guess(encode_with_clip(scorer(), captions), keys)


def test_captions_are_encoded_as_clip_does() -> None:
    encoded = encode_with_clip(scorer(), CAPTIONS)
    torch.testing.assert_close(encoded.embeddings, scorer().embed_captions(CAPTIONS))
    assert encoded.inputs(reads_tokens=True).values.dtype == torch.int64
    assert encoded.inputs(reads_tokens=False).values.is_floating_point()
    assert encoded.states.is_given.sum(dim=1).tolist() == [
        len(scorer().tokenizer.encode(caption)) + 2 for caption in CAPTIONS
    ]


@every_kind
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_embeddings_of_a_batch_are_those_of_captions_alone(kind: str, guidance: float) -> None:
    one = guesser(PARTS[kind](), prior_guidance=guidance)
    together = guessed(one)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(4))
    for i, (caption, key) in enumerate(zip(CAPTIONS, KEYS, strict=True)):
        alone = guessed(one, [caption], [key])
        torch.testing.assert_close(together[i], alone[0], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(together[0], together[3])  # the same caption, and another number


@every_kind
def test_guidance_and_captions_change_what_is_guessed(kind: str) -> None:
    usual, guided = (guessed(guesser(PARTS[kind](), prior_guidance=g)) for g in (1.0, 4.0))
    assert not torch.allclose(usual, guided)
    other = guessed(guesser(PARTS[kind]()), ["green", "b", "zzzzzzzz", "ring ring"], KEYS)
    assert not torch.allclose(usual, other)


def test_kept_candidate_is_the_closer_of_two_samples_by_a_plain_loop() -> None:
    parts = diffusion_prior_parts()
    prior, schedule = parts.prior, noise_schedule("cosine", parts.table.diffusion.n_steps)
    grid = schedule.respaced(strided_steps(len(schedule), [6]))
    encoded, limit = encode_with_clip(scorer(), CAPTIONS[:1]), 6 * parts.table.embedding_rms

    def noise(index: int | str, candidate: int) -> Tensor:
        found = gaussian_numbers(KEYS[:1], stage="prior", index=index, shape=(2, 32))
        return found[:, candidate]

    samples = []
    for candidate in range(2):
        x = noise("start", candidate)
        for i in reversed(range(6)):
            steps = torch.tensor([int(grid.timesteps[i])])
            none = torch.zeros(1, dtype=torch.bool)
            clean = prior(x, steps, encoded.states, encoded.embeddings, none).clamp(-limit, limit)
            x = posterior_mean(grid, clean, noisy=x, index=i)
            if i:
                x = x + float(grid.posterior_variance[i]) ** 0.5 * noise(i, candidate)
        samples.append(F.normalize(x, dim=1))
    closer = max(samples, key=lambda sample: float((sample * encoded.embeddings).sum()))

    one = guesser(parts, prior_steps=6)
    torch.testing.assert_close(guessed(one, CAPTIONS[:1], KEYS[:1]), closer, rtol=1e-4, atol=1e-5)
    assert one.settings["prior_variances"] == "posterior"


def test_measured_variances_are_used_on_the_grid_that_they_were_measured_on() -> None:
    parts = diffusion_prior_parts()
    schedule = noise_schedule("cosine", 40)
    steps = strided_steps(40, [40])
    variances = PriorVariances(
        weights="", n_samples=1, steps=steps, clean_variance=[0.1] * 40, data_variance=0.3
    )
    measured = guesser(parts._replace(variances=variances))
    torch.testing.assert_close(measured.log_variances, variances.log_variances(schedule))
    assert measured.settings["prior_variances"] == "measured"
    other = guesser(parts._replace(variances=variances), prior_steps=8)
    assert other.settings == {**measured.settings, "prior_steps": 8, "prior_variances": "posterior"}


def test_text_stands_for_the_picture_and_nothing_is_zero() -> None:
    torch.testing.assert_close(guessed(TextGuesser()), scorer().embed_captions(CAPTIONS))
    assert guessed(NoGuesser()).abs().max() == 0 and guessed(NoGuesser()).shape == (4, 32)


def test_guidance_needs_a_prior_that_was_trained_without_captions() -> None:
    with pytest.raises(UsageError, match=r"`loss.caption_dropout` was 0"):
        guesser(diffusion_prior_parts({"caption_dropout": 0.0}), prior_guidance=2.0)
    guesser(diffusion_prior_parts({"caption_dropout": 0.0}))
    guesser(diffusion_prior_parts({}), prior_guidance=2.0)  # nobody knows


def test_steps_are_for_diffusion_and_at_most_those_of_training() -> None:
    with pytest.raises(UsageError, match="takes no steps of diffusion"):
        guesser(code_prior_parts(), prior_steps=8)
    with pytest.raises(UsageError, match="more than the 40 steps"):
        guesser(diffusion_prior_parts(), prior_steps=41)


@every_kind
def test_memory_grows_with_pictures_and_doubles_under_guidance(kind: str) -> None:
    one, guided = (guesser(PARTS[kind](), prior_guidance=g) for g in (1.0, 2.0))
    assert one.n_bytes(8) == 8 * one.n_bytes(1) > 0
    assert guided.n_bytes(3) == 2 * one.n_bytes(3)
    assert replace(one, guidance=2.0).n_bytes(3) == guided.n_bytes(3)
