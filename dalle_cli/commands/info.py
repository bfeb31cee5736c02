"""`dalle info`: the size and cost of a recipe's or a run's model, before anything is paid for."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dalle_cli.commands.reports.model_facts import model_facts
from dalle_cli.config import ModelTable, TrainedTransformerTable, kind_of
from dalle_cli.console import Terminal
from dalle_cli.errors import DalleError, UsageError
from dalle_cli.loading import largest_table
from dalle_cli.models.attention_masks import image_mask
from dalle_cli.recipe import load_recipe
from dalle_cli.storage.model_folder import read_model_table
from dalle_cli.storage.run_dir import model_dir
from dalle_cli.viz import enlarge

MASK_SIZE = 512  # pixels, at least


def run_info(name: str, overrides: list[str], masks: Path | None, terminal: Terminal) -> None:
    """Print a model's parameters, tokens, layers, FLOPs and memory.

    masks  a folder, if given, into which the image mask of each kind of attention is drawn
    """
    table = _read_table(name, overrides)
    facts = model_facts(table)
    if masks is not None:
        if not isinstance(table, TrainedTransformerTable):
            raise DalleError(f"{name} is a {kind_of(table)}, which has no attention masks to draw")
        facts["masks"] = _draw_masks(table, masks)
    terminal.result(_text(facts), facts)


def _read_table(name: str, overrides: list[str]) -> ModelTable:
    """Read a model's sizes from a recipe, or from the model folder of a run or an export."""
    if Path(name).is_dir():
        if overrides:
            raise UsageError("the sizes of a run are fixed: `--set` goes with a recipe")
        return read_model_table(model_dir(Path(name)))
    return largest_table(load_recipe(name, overrides))


def _draw_masks(table: TrainedTransformerTable, folder: Path) -> dict[str, str]:
    """Draw image-to-image masks, white where a query (down) may attend to a key (across)."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for kind in ("row", "column", "convolutional"):
        mask = image_mask(kind, table.grid_size, kernel_size=table.kernel_size)
        picture = Image.fromarray(mask.to(torch.uint8).mul(255).numpy())
        files[kind] = str(folder / f"{kind}.png")
        enlarge(picture, at_least=MASK_SIZE).save(files[kind])
    return files


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
