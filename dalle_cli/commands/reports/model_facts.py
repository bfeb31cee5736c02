"""The size and cost of a model, from its table alone, for `dalle info`.

`FACTS_BY_KIND` has a function for each kind of model. Modules are built on the meta device, so that
a model of any size takes no memory.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from dalle_cli.commands.reports.group_cost import transformer_training_facts
from dalle_cli.commands.reports.transformer_cost import transformer_cost
from dalle_cli.commands.reports.unclip_facts import UNCLIP_FACTS_BY_KIND
from dalle_cli.config import (
    DVAEEncoderTable,
    ModelTable,
    Recipe,
    TowerTable,
    TrainedClipTable,
    TrainedTransformerTable,
    kind_of,
)
from dalle_cli.loading import build_largest_model, build_model, largest_table
from dalle_cli.models.clip import Clip
from dalle_cli.models.dvae import DVAEEncoder
from dalle_cli.models.transformer import Transformer
from dalle_cli.models.weightless import meta_device


def model_facts(table: ModelTable) -> dict[str, Any]:
    """Return a model's kind, parameters and tokens, and the cost of a transformer."""
    kind = kind_of(table)
    with meta_device():
        return {"kind": kind, **FACTS_BY_KIND[kind](table, build_model(table))}


def training_facts(recipe: Recipe) -> dict[str, Any]:
    """Return the model facts of a recipe, and what its training keeps in memory."""
    facts = model_facts(largest_table(recipe))
    if recipe.kind != "transformer":
        return facts
    with meta_device():
        transformer = cast(Transformer, build_largest_model(recipe))
    return {**facts, **transformer_training_facts(recipe, transformer)}


def _dvae_facts(table: DVAEEncoderTable, dvae: DVAEEncoder) -> dict[str, Any]:
    parts = {part: _count(module) for part, module in dvae.named_children()}
    return {
        "parameters": {**parts, "all": _count(dvae)},
        "image_size": table.image_size,
        "shape": f"{table.n_groups} groups of {_layers(table.blocks_per_group, 'block')}, "
        f"width {table.n_hidden}",
        "tokens": f"{dvae.grid_size}x{dvae.grid_size} out of {dvae.vocab_size:,}",
        "weights_mib": _weights_mib(dvae),
    }


def _clip_facts(table: TrainedClipTable, clip: Clip) -> dict[str, Any]:
    total, vision = _count(clip), _count(clip.visual)
    n_patches = (table.image_size // table.patch_size) ** 2
    return {
        "parameters": {"vision": vision, "text": total - vision, "all": total},
        "image_size": table.image_size,
        "shape": f"vision: {_tower(table.vision)}; text: {_tower(table.text)}",
        "tokens": f"{table.text_len} text out of {table.text_vocab_size:,} at most, "
        f"{n_patches} patches of {table.patch_size} px",
        "weights_mib": _weights_mib(clip),
    }


def _transformer_facts(table: TrainedTransformerTable, transformer: Transformer) -> dict[str, Any]:
    blocks, total = _count(transformer.blocks), _count(transformer)
    heads = _count(transformer.text_head) + _count(transformer.image_head)

    return {
        "parameters": {
            "blocks": blocks,
            "of these in matrices": sum(matrix.numel() for matrix in transformer.matrices()),
            "embeddings": total - blocks - heads,
            "heads": heads,
            "all": total,
        },
        "shape": f"{_layers(table.n_layers)} of width {table.d_model}, {table.n_heads} heads",
        "tokens": f"{table.text_len} text out of {table.text_vocab_size:,} at most, "
        f"{table.grid_size}x{table.grid_size} image out of {table.image_vocab_size:,}",
        "layers": {
            kind: transformer.kinds.count(kind) for kind in dict.fromkeys(transformer.kinds)
        },
        **transformer_cost(table, transformer),
    }


def _tower(table: TowerTable) -> str:
    return f"{_layers(table.n_layers)} of width {table.d_model}, {table.n_heads} heads"


def _layers(n: int, noun: str = "layer") -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _weights_mib(module: nn.Module) -> float:
    return float(f"{_count(module) * torch.float32.itemsize / 2**20:.4g}")


FACTS_BY_KIND: dict[str, Callable[[Any, Any], dict[str, Any]]] = {
    "dvae": _dvae_facts,
    "dvae-encoder": _dvae_facts,
    "transformer": _transformer_facts,
    "clip": _clip_facts,
    **UNCLIP_FACTS_BY_KIND,
}
