"""Small tasks of priors and decoder, in which nothing hides behind zeros, and a batch for them."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from dalle_cli.config import AnyPriorRecipe, DecoderRecipe
from dalle_cli.data.clip_tokenizer import frame
from dalle_cli.data.loader import Batch, collate
from dalle_cli.data.preprocessing import Example
from dalle_cli.data.unclip.clip_embeddings import BatchEmbeddings
from dalle_cli.loading import (
    build_autoregressive_prior,
    build_clip,
    build_decoder,
    build_embedding_codec,
    build_prior,
    trained_clip_table,
)
from dalle_cli.models.clip import Clip
from dalle_cli.models.unclip.embedding_codec import EmbeddingCodec
from dalle_cli.recipe import load_recipe
from dalle_cli.training.tasks.unclip.autoregressive import AutoregressivePriorTask
from dalle_cli.training.tasks.unclip.clip_pairs import PairEncoder
from dalle_cli.training.tasks.unclip.decoder import UnclipDecoderTask
from dalle_cli.training.tasks.unclip.fitted_codec import codec_table
from dalle_cli.training.tasks.unclip.prior import DiffusionPriorTask

CPU = torch.device("cpu")
LENGTHS = [0, 3, 12, 1, 8, 11, 2]  # caption tokens
START, END = 300, 301
SEED = 3


@cache
def small_clip() -> Clip:
    torch.manual_seed(4)
    table = trained_clip_table(load_recipe("clip/tiny", [], kind="clip").model, 300)
    return build_clip(table).eval().requires_grad_(False)


def global_batch(image_size: int = 32) -> Batch:
    """Return pairs as CLIP reads them; two of them have the same caption."""
    rng = np.random.default_rng(5)
    examples = []
    for i, length in enumerate(LENGTHS):
        square = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        ids = rng.integers(0, 300, length).tolist()
        text = frame(ids, start_of_text=START, end_of_text=END, text_len=16)
        is_same = image_size == 32
        pixels = square if is_same else square[:image_size, :image_size]
        clip_pixels = None if is_same else square
        examples.append(Example(pixels, f"caption {i}", text_tokens=text, clip_pixels=clip_pixels))
    examples[6] = replace(
        examples[6], caption=examples[2].caption, text_tokens=examples[2].text_tokens
    )
    return collate(examples, list(range(100, 100 + len(LENGTHS))), bad=[])


def whole(batch: Batch) -> Batch:
    return next(batch.micro_batches(0, CPU))


def batches_of(batch: Batch, size: int) -> Iterator[Batch]:
    """Cut a global batch into whole batches, as held-out samples come."""
    for part in batch.micro_batches(size, CPU):
        yield replace(part, global_size=len(part.positions))


def embedded(batch: Batch) -> Batch:
    """Return a batch whose pairs come as embeddings."""
    pairs = PairEncoder(small_clip(), reads_tokens=False)(whole(batch))
    stored = BatchEmbeddings(pairs.images, pairs.texts, pairs.captions.values)
    return replace(batch, images=batch.images[:, :, :0, :0], embeddings=stored)


def randomised(model: nn.Module) -> Any:
    torch.manual_seed(0)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model


def prior_task(*overrides: str) -> DiffusionPriorTask:
    recipe: AnyPriorRecipe = load_recipe("prior/tiny", list(overrides), kind="prior")
    assert recipe.kind == "prior"
    encode = PairEncoder(small_clip(), reads_tokens=recipe.model.text_vocab_size is not None)
    torch.manual_seed(1)  # after the CLIP, which is built once
    prior = randomised(build_prior(recipe.model))
    return DiffusionPriorTask(prior, encode, recipe.model, recipe.loss, SEED)


def fitted_codec() -> EmbeddingCodec:
    recipe = load_recipe("prior-autoregressive/tiny", [], kind="prior")
    assert recipe.kind == "prior-autoregressive"
    codec = build_embedding_codec(codec_table(recipe.model))
    # of more embeddings than components, or codes would be those of rounding errors
    generator = torch.Generator().manual_seed(6)
    images, texts = torch.randn(2, 200, recipe.model.d_embed, generator=generator)
    codec.fit(images, images + texts)
    return codec


def codes_task(*overrides: str) -> AutoregressivePriorTask:
    recipe = load_recipe("prior-autoregressive/tiny", list(overrides), kind="prior")
    assert recipe.kind == "prior-autoregressive"
    torch.manual_seed(1)
    prior = randomised(build_autoregressive_prior(recipe.model))
    encode = PairEncoder(small_clip(), reads_tokens=False)
    return AutoregressivePriorTask(prior, encode, fitted_codec(), recipe.loss, SEED)


def decoder_task(*overrides: str) -> UnclipDecoderTask:
    recipe: DecoderRecipe = load_recipe("decoder/tiny", list(overrides), kind="decoder")
    encode = PairEncoder(small_clip(), reads_tokens=recipe.model.text is not None)
    torch.manual_seed(1)
    decoder = randomised(build_decoder(recipe.model))
    return UnclipDecoderTask(decoder, encode, recipe.model, recipe.loss, SEED)


TASKS = {"prior": prior_task, "prior-autoregressive": codes_task, "decoder": decoder_task}


def batch_for(kind: str) -> Batch:
    return global_batch(16 if kind == "decoder" else 32)
