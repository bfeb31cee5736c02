"""A small CLIP, priors and decoder, in which nothing hides behind zeros."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dalle_cli.config import (
    AutoregressivePriorModelTable,
    DecoderModelTable,
    EmbeddingCodecTable,
    PriorModelTable,
)
from dalle_cli.data.clip_tokenizer import own_clip_tokenizer
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.generation.unclip.decoder_sampler import DecoderSampler, decoder_sampler
from dalle_cli.generation.unclip.prior_samplers import prior_guesser
from dalle_cli.generation.unclip.settings import UnclipSettings
from dalle_cli.loading import (
    build_autoregressive_prior,
    build_clip,
    build_decoder,
    build_embedding_codec,
    build_prior,
    trained_clip_table,
)
from dalle_cli.loading.unclip_parts import (
    CodePriorParts,
    DecoderParts,
    DiffusionPriorParts,
    PriorParts,
)
from dalle_cli.recipe import load_recipe
from dalle_cli.scoring.clip_scorer import ClipScorer

CPU = torch.device("cpu")
CLIP_FOLDER = Path("clip")  # which nothing opens
BOTH_DROPPED = {"embedding_dropout": 0.1, "caption_dropout": 0.5}
CAPTION_DROPPED = {"caption_dropout": 0.1}


def randomised(model: nn.Module, seed: int) -> Any:
    torch.manual_seed(seed)
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 9
        nn.init.normal_(parameter, std=fan_in**-0.5)
    return model.eval().requires_grad_(False)


@cache
def scorer() -> ClipScorer:
    tokenizer = own_clip_tokenizer(Tokenizer([("r", "i"), ("ri", "n")], "tokenizers"))
    recipe = load_recipe("clip/tiny", [], kind="clip")
    torch.manual_seed(1)
    clip = build_clip(trained_clip_table(recipe.model, tokenizer.vocab_size - 2))
    return ClipScorer(clip.eval().requires_grad_(False), tokenizer, CPU, checksum="toy")


def decoder_table(**changes: Any) -> DecoderModelTable:
    recipe = load_recipe("decoder/tiny", [], kind="decoder")
    return DecoderModelTable.model_validate({**recipe.model.model_dump(), **changes})


def decoder_parts(
    *, is_fresh: bool = False, dropouts: dict[str, float] = BOTH_DROPPED, **changes: Any
) -> DecoderParts:
    """is_fresh: with the weights that training starts with, which predict no noise."""
    table = decoder_table(**changes)
    torch.manual_seed(2)
    decoder = build_decoder(table).eval().requires_grad_(False)
    if not is_fresh:
        decoder = randomised(decoder, 2)
    return DecoderParts(decoder, table, CLIP_FOLDER, "weights", dropouts, None)


def sampler(parts: DecoderParts | None = None, **settings: Any) -> DecoderSampler:
    """Return a decoder that samples in five steps, unless the settings say otherwise."""
    chosen = UnclipSettings(**{"steps": 5, **settings})
    return decoder_sampler(
        parts or decoder_parts(), chosen, name="toy", device=CPU, precision="fp32"
    )


def diffusion_prior_parts(dropouts: dict[str, float] = CAPTION_DROPPED) -> DiffusionPriorParts:
    table = load_recipe("prior/tiny", [], kind="prior").model
    assert isinstance(table, PriorModelTable)
    prior = randomised(build_prior(table), 3)
    return DiffusionPriorParts(prior, table, None, CLIP_FOLDER, "weights", dropouts)


def code_prior_parts() -> CodePriorParts:
    table = load_recipe("prior-autoregressive/tiny", [], kind="prior").model
    assert isinstance(table, AutoregressivePriorModelTable)
    prior = randomised(build_autoregressive_prior(table), 4)
    sizes = EmbeddingCodecTable(
        d_embed=table.d_embed, n_components=table.n_components, n_buckets=table.n_buckets
    )
    codec = build_embedding_codec(sizes)
    generator = torch.Generator().manual_seed(5)
    images, texts = torch.randn(2, 200, table.d_embed, generator=generator)
    codec.fit(images, images + texts)
    return CodePriorParts(prior, table, codec, CLIP_FOLDER, "weights", CAPTION_DROPPED)


def guesser(parts: PriorParts, **settings: Any) -> Any:
    chosen = UnclipSettings(**settings)
    return prior_guesser(parts, chosen, name="toy", device=CPU, precision="fp32")
