"""The size and cost of DALL-E 2's models, from their tables alone, for `dalle info`."""

from collections.abc import Callable
from typing import Any

from torch import nn

from dalle_cli.commands.reports.transformer_cost import (
    in_gib,
    in_mib,
    significant,
    state_facts,
)
from dalle_cli.config import (
    AutoregressivePriorModelTable,
    DecoderModelTable,
    EmbeddingCodecTable,
    ModelTable,
    PriorModelTable,
)
from dalle_cli.models.unclip.autoregressive_prior import AutoregressivePrior
from dalle_cli.models.unclip.decoder import UnclipDecoder
from dalle_cli.models.unclip.diffusion_prior import DiffusionPrior
from dalle_cli.models.unclip.embedding_codec import EmbeddingCodec
from dalle_cli.training.planning.cost import counted_flops, sample_bytes
from dalle_cli.training.planning.memory import FP32, largest_layer

# as published: two samples of the prior, and a decoder that is guided away from no conditions
PRIOR_STEPS, N_CANDIDATES = 64, 2
DECODER_STEPS, N_BRANCHES = 250, 2


def prior_facts(table: PriorModelTable, prior: DiffusionPrior) -> dict[str, Any]:
    """Return the facts of a diffusion prior."""
    vocabulary = f" out of {table.text_vocab_size:,}" if table.text_vocab_size else ""
    sampling = f"{N_CANDIDATES} samples of {PRIOR_STEPS} steps"
    return {
        "parameters": _parts(prior, transformer=prior.transformer),
        "shape": f"{table.n_layers} layers of width {table.d_model}, {table.n_heads} heads",
        "tokens": f"{table.text_len} text{vocabulary}, for embeddings of width {table.d_embed:,}",
        **_cost(table, prior, n_forwards=N_CANDIDATES * PRIOR_STEPS, sampling=sampling),
    }


def autoregressive_prior_facts(
    table: AutoregressivePriorModelTable, prior: AutoregressivePrior
) -> dict[str, Any]:
    """Return the facts of an autoregressive prior."""
    return {
        "parameters": _parts(prior, transformer=prior.blocks),
        "shape": f"{table.n_layers} layers of width {table.d_model}, {table.n_heads} heads",
        "tokens": f"{table.text_len} text, {table.n_components} codes out of {table.n_buckets:,}",
        # with a cache, each slot is computed once
        **_cost(table, prior, n_forwards=1, sampling="code by code"),
    }


def decoder_facts(table: DecoderModelTable, decoder: UnclipDecoder) -> dict[str, Any]:
    """Return the facts of a decoder."""
    unet = table.unet
    parts: dict[str, nn.Module] = {"unet": decoder.unet}
    if decoder.captions is not None:
        parts["text"] = decoder.captions
    levels = "-".join(map(str, unet.multiples))
    text = "no text" if table.text_len is None else f"{table.text_len} text"
    sampling = f"{DECODER_STEPS} steps, guided"
    return {
        "parameters": _parts(decoder, **parts),
        "image_size": table.image_size,
        "shape": f"{unet.channels} channels times {levels}, {unet.depth} blocks a level",
        "tokens": f"{text}, for embeddings of width {table.d_embed:,}",
        **_cost(table, decoder, n_forwards=N_BRANCHES * DECODER_STEPS, sampling=sampling),
    }


def codec_facts(table: EmbeddingCodecTable, codec: EmbeddingCodec) -> dict[str, Any]:
    """Return the facts of a codec, which has no parameters."""
    return {
        "parameters": {"all": 0},
        "tokens": f"{table.n_components} codes out of {table.n_buckets:,} for an embedding of "
        f"width {table.d_embed:,}",
        "weights_mib": in_mib(FP32 * sum(buffer.numel() for buffer in codec.buffers())),
    }


def _cost(table: ModelTable, model: nn.Module, *, n_forwards: int, sampling: str) -> dict[str, Any]:
    """Return the cost of a model.

    n_forwards  passes of the model that a picture takes, as `sampling` puts in words
    """
    n_parameters, forward = _count(model), counted_flops(table)
    return {
        "gflop_forward": significant(forward / 1e9),
        "tflop_per_picture": {
            "sampling": significant(n_forwards * forward / 1e12),
            "training": significant(3 * forward / 1e12),
        },
        "sampling": sampling,
        "weights_mib": in_mib(FP32 * n_parameters),
        "activations_gib_per_sample": {"fp32": in_gib(sample_bytes(table, "fp32"))},
        **state_facts(n_parameters, largest_layer(model)),
    }


def _parts(model: nn.Module, **parts: nn.Module) -> dict[str, int]:
    """Count the parameters of parts, of everything else, and of all."""
    counts, total = {name: _count(part) for name, part in parts.items()}, _count(model)
    return {**counts, "other": total - sum(counts.values()), "all": total}


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


UNCLIP_FACTS_BY_KIND: dict[str, Callable[[Any, Any], dict[str, Any]]] = {
    "prior": prior_facts,
    "prior-autoregressive": autoregressive_prior_facts,
    "decoder": decoder_facts,
    "embedding-codec": codec_facts,
}
