"""`dalle info`: what a recipe or a run amounts to, before anything is paid for."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from dalle_cli.config import (
    ClipRecipe,
    DVAEEncoderTable,
    DVAEModelTable,
    DVAERecipe,
    ModelTable,
    TrainedClipTable,
    TrainedTransformerTable,
    kind_of,
)
from dalle_cli.console import Terminal
from dalle_cli.errors import DalleError, UsageError
from dalle_cli.generation.cached_transformer import kv_cache_bytes
from dalle_cli.loading import (
    build_clip,
    build_dvae,
    build_dvae_encoder,
    build_transformer,
    trained_clip_table,
)
from dalle_cli.models.attention_masks import image_mask
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.devices import choose_device
from dalle_cli.runtime.peak_rates import stored_write_rate
from dalle_cli.storage.model_folder import read_model_table
from dalle_cli.training.checkpoint import CHECKPOINT_COPIES
from dalle_cli.training.flops import forward_flops, train_flops
from dalle_cli.training.memory import (
    FP32,
    activation_bytes,
    deepspeed_bf16_bytes,
    largest_layer,
    state_bytes,
)
from dalle_cli.viz import enlarge

GPU_COUNTS = (8, 64, 1024)


def info(name: str, overrides: list[str], masks: Path | None, terminal: Terminal) -> None:
    """Print parameters by part, tokens and attention; with `masks`, draw each kind's image mask into that folder."""
    model = _model_of(name, overrides)
    with torch.device("meta"):
        facts = _facts(model)
    if masks is not None:
        if not isinstance(model, TrainedTransformerTable):
            raise DalleError(f"{name} is a {kind_of(model)}, which has no attention masks to draw")
        facts["masks"] = _draw_masks(model, masks)
    terminal.result(_text(facts), facts)


def _model_of(name: str, overrides: list[str]) -> ModelTable:
    """Read the sizes from a recipe, or from the model folder of a run or an export."""
    if Path(name).is_dir():
        if overrides:
            raise UsageError("a run is what it is: --set goes with a recipe")
        return read_model_table(Path(name))
    recipe = load_recipe(name, overrides)
    if isinstance(recipe, DVAERecipe):
        return recipe.model
    if isinstance(recipe, ClipRecipe):
        return trained_clip_table(recipe.model, recipe.tokenizer.vocab_size)
    return TrainedTransformerTable(
        **recipe.model.model_dump(), text_vocab_size=recipe.tokenizer.vocab_size
    )


def _facts(model: ModelTable) -> dict[str, Any]:
    if isinstance(model, TrainedTransformerTable):
        return _transformer_facts(model)
    return _clip_facts(model) if isinstance(model, TrainedClipTable) else _dvae_facts(model)


def _clip_facts(model: TrainedClipTable) -> dict[str, Any]:
    clip = build_clip(model)
    total, vision = _count(clip), _count(clip.visual)
    return {
        "kind": "clip",
        "parameters": {"vision": vision, "text": total - vision, "all": total},
        "image_size": model.image_size,
        "tokens": f"{model.text_len} text out of {model.text_vocab_size:,} at most, "
        f"{(model.image_size // model.patch_size) ** 2} patches of {model.patch_size} px",
        "weights_mib": round(total * 4 / 2**20, 1),
    }


def _dvae_facts(model: DVAEEncoderTable | DVAEModelTable) -> dict[str, Any]:
    dvae = build_dvae(model) if isinstance(model, DVAEModelTable) else build_dvae_encoder(model)
    parts = {part: _count(module) for part, module in dvae.named_children()}
    return {
        "kind": kind_of(model),
        "parameters": {**parts, "all": _count(dvae)},
        "image_size": model.image_size,
        "tokens": f"{dvae.grid_size}x{dvae.grid_size} out of {dvae.vocab_size:,}",
        "weights_mib": round(_count(dvae) * 4 / 2**20, 1),
    }


def _transformer_facts(model: TrainedTransformerTable) -> dict[str, Any]:
    transformer = build_transformer(model, model.text_vocab_size)
    blocks, total = _count(transformer.blocks), _count(transformer)
    heads = _count(transformer.text_head) + _count(transformer.image_head)

    sizes = total, largest_layer(transformer)
    return {
        "kind": "transformer",
        "parameters": {
            "blocks": blocks,
            "of these in matrices": sum(p.numel() for p in transformer.matrices()),
            "embeddings": total - blocks - heads,
            "heads": heads,
            "all": total,
        },
        "tokens": f"{model.text_len} text out of {model.text_vocab_size:,} at most, "
        f"{model.grid_size}x{model.grid_size} image out of {model.image_vocab_size:,}",
        "layers": {
            kind: transformer.kinds.count(kind) for kind in dict.fromkeys(transformer.kinds)
        },
        "tflop_per_image": {
            "forward": _significant(forward_flops(model) / 1e12),
            "training": _significant(train_flops(model) / 1e12),
        },
        "weights_mib": round(total * 4 / 2**20, 1),
        "cache_mib": {
            "of each caption": round(kv_cache_bytes(transformer, 0, n_captions=1) / 2**20, 2),
            "of each sample": round(kv_cache_bytes(transformer, 1, n_captions=0) / 2**20, 2),
        },
        **_checkpoint_facts(CHECKPOINT_COPIES * FP32 * total),
        "activations_gib_per_sample": {
            f"{precision}{', recomputed' * recomputed}": _gib(
                activation_bytes(model, precision, recomputed=recomputed)
            )
            for precision in ("fp32", "bf16")
            for recomputed in (False, True)
        },
        "state_gib_per_gpu_of_8": {
            "whole replicas" if stage == 0 else f"ZeRO {stage}": _gib(state_bytes(stage, *sizes, 8))
            for stage in range(4)
        },
        "zero3_state_gib_per_gpu": {
            f"{n} GPUs": _gib(state_bytes(3, *sizes, n)) for n in GPU_COUNTS
        },
        "deepspeed_bf16_gib_per_gpu": {
            f"{n} GPUs": _gib(deepspeed_bf16_bytes(*sizes, n)) for n in GPU_COUNTS
        },
    }


def _significant(value: float) -> float:
    return float(f"{value:.4g}")


def _checkpoint_facts(n_bytes: int) -> dict[str, float]:
    """Tell its size, and how long one process takes to write it where `dalle doctor --measure` has found out."""
    rate = stored_write_rate(choose_device("auto"))
    seconds = (
        {} if rate is None else {"checkpoint_seconds_by_one_process": _significant(n_bytes / rate)}
    )
    return {"checkpoint_gib": _gib(n_bytes), **seconds}


def _gib(n_bytes: int) -> float:
    return round(n_bytes / 2**30, 3)


def _draw_masks(model: TrainedTransformerTable, folder: Path) -> dict[str, str]:
    """Draw each kind's image-to-image mask, white where a query (down) may see a key (across)."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for kind in ("row", "column", "convolutional"):
        mask = image_mask(kind, model.grid_size, kernel_size=model.kernel_size)
        files[kind] = str(folder / f"{kind}.png")
        picture = Image.fromarray(mask.to(torch.uint8).mul(255).numpy())
        enlarge(picture, at_least=512).save(files[kind])
    return files


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _text(facts: dict[str, Any]) -> str:
    lines = []
    for key, value in facts.items():
        if isinstance(value, dict):
            lines.append(key)
            lines += [f"  {part:<22}{_number(figure)}" for part, figure in value.items()]
        else:
            lines.append(f"{key:<24}{_number(value)}")
    return "\n".join(lines)


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
