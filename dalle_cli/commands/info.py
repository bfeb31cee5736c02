"""`dalle info`: what a recipe or a run amounts to, before anything is paid for."""

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from dalle_cli.config import DVAEModelTable, DVAERecipe, Recipe, TransformerRecipe
from dalle_cli.console import Terminal
from dalle_cli.errors import DalleError
from dalle_cli.loading import build_dvae, build_transformer
from dalle_cli.models.attention_masks import image_mask
from dalle_cli.recipe import load_recipe, parse_recipe
from dalle_cli.run_dir import CONFIG, RunDir, model_dir
from dalle_cli.viz import enlarge


def info(name: str, overrides: list[str], masks: Path | None, terminal: Terminal) -> None:
    """Print parameters by part, tokens and attention; with `masks`, draw each kind's image mask into that folder."""
    recipe = _recipe_of(name, overrides)
    with torch.device("meta"):
        facts = _dvae_facts(recipe.model) if isinstance(recipe, DVAERecipe) else _transformer_facts(recipe)
    if masks is not None:
        if isinstance(recipe, DVAERecipe):
            raise DalleError(f"{name} is a recipe for dvae, which has no attention masks")
        facts["masks"] = _draw_masks(recipe, masks)
    terminal.result(_text(facts), facts)


def _recipe_of(name: str, overrides: list[str]) -> Recipe:
    run = RunDir(Path(name))
    if not run.root.is_dir():
        return load_recipe(name, overrides)
    if run.is_run:
        try:
            return parse_recipe(json.loads(run.recipe.read_text("utf-8"))["recipe"], source=str(run.recipe))
        except (ValueError, KeyError, TypeError) as error:
            raise DalleError(f"{run.recipe} is damaged: {error}") from error
    raise DalleError(f"{name} is not a run", f"{model_dir(run.root) / CONFIG} says what model it holds")


def _dvae_facts(model: DVAEModelTable) -> dict[str, Any]:
    dvae = build_dvae(model)
    return {
        "kind": "dvae",
        "parameters": {"encoder": _count(dvae.encoder), "decoder": _count(dvae.decoder), "all": _count(dvae)},
        "image_size": model.image_size,
        "tokens": f"{dvae.grid_size}x{dvae.grid_size} out of {dvae.vocab_size:,}",
        "weights_mib": round(_count(dvae) * 4 / 2**20, 1),
    }


def _transformer_facts(recipe: TransformerRecipe) -> dict[str, Any]:
    model = recipe.model
    transformer = build_transformer(model, recipe.tokenizer.vocab_size)
    blocks, total = _count(transformer.blocks), _count(transformer)
    heads = _count(transformer.text_head) + _count(transformer.image_head)
    cache = 2 * model.n_layers * model.d_model * (model.text_len + transformer.image_len)
    return {
        "kind": "transformer",
        "parameters": {
            "blocks": blocks,
            "of these in matrices": sum(p.numel() for p in transformer.matrices()),
            "embeddings": total - blocks - heads,
            "heads": heads,
            "all": total,
        },
        "tokens": f"{model.text_len} text out of {recipe.tokenizer.vocab_size:,} at most, "
        f"{model.grid_size}x{model.grid_size} image out of {model.image_vocab_size:,}",
        "layers": {kind: transformer.kinds.count(kind) for kind in dict.fromkeys(transformer.kinds)},
        "weights_mib": round(total * 4 / 2**20, 1),
        "cache_mib_per_sample": round(cache * 4 / 2**20, 2),
    }


def _draw_masks(recipe: TransformerRecipe, folder: Path) -> dict[str, str]:
    """Draw each kind's image-to-image mask, white where a query (down) may see a key (across)."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for kind in ("row", "column", "convolutional"):
        mask = image_mask(kind, recipe.model.grid_size, recipe.model.kernel_size)
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
