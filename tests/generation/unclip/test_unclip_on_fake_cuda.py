"""DALL-E 2 on a GPU, traced: from captions to embeddings and pictures, on one device."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import toy_unclip
from fake_cuda import CUDA, FakeCuda, fake_cuda

from dalle_cli.generation.unclip.caption_inputs import encode_with_clip
from dalle_cli.generation.unclip.decoder_sampler import decoder_sampler
from dalle_cli.generation.unclip.noise import NoiseKey
from dalle_cli.generation.unclip.prior_samplers import prior_guesser
from dalle_cli.generation.unclip.settings import UnclipSettings
from dalle_cli.loading import build_autoregressive_prior, build_embedding_codec
from dalle_cli.loading.unclip_parts import CodePriorParts
from dalle_cli.recipe import load_recipe
from dalle_cli.training.tasks.unclip.fitted_codec import codec_table

CAPTIONS = ["a ring", "rings"]
KEYS = [NoiseKey(0, caption, 0) for caption in CAPTIONS]


@pytest.fixture
def gpu() -> Iterator[FakeCuda]:
    with fake_cuda() as gpu:
        yield gpu


def code_prior_parts() -> CodePriorParts:
    table: Any = load_recipe("prior-autoregressive/tiny", [], kind="prior").model
    prior = build_autoregressive_prior(table).eval().requires_grad_(False)
    codec = build_embedding_codec(codec_table(table))
    dropouts = toy_unclip.CAPTION_DROPPED
    return CodePriorParts(prior, table, codec, toy_unclip.CLIP_FOLDER, "weights", dropouts)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["diffusion", "codes"])
@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_pictures_are_painted_on_the_gpu(sampler: str, kind: str, gpu: FakeCuda) -> None:
    with gpu.building():
        scorer = toy_unclip.scorer.__wrapped__()
        of_prior: Any = code_prior_parts() if kind == "codes" else None
        of_prior = of_prior or toy_unclip.diffusion_prior_parts()
        of_decoder = toy_unclip.decoder_parts()
    scorer.clip.to(CUDA)
    captions = encode_with_clip(replace(scorer, device=CUDA), CAPTIONS)

    prior_steps = 3 if kind == "diffusion" else None
    settings = UnclipSettings(steps=3, prior_steps=prior_steps, sampler=sampler, guidance=2.0)
    options: Any = {"name": "toy", "device": CUDA, "precision": "bf16"}
    embeddings = prior_guesser(of_prior, settings, **options).guess(captions, KEYS)
    decoder = decoder_sampler(of_decoder, settings, **options)
    pictures = decoder.sample(embeddings, captions.inputs(reads_tokens=False), KEYS)
    assert embeddings.device == pictures.device == CUDA
    assert decoder.invert(pictures, embeddings).device == CUDA
