"""What has become of a run so far, read from its files, for `dalle info`.

Every file may be missing or cut short: an export has no metrics, a new run no checkpoints. Strings
from `recipe.json` may be a stranger's.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dalle_cli.errors import DalleError
from dalle_cli.recipe import flat_tables, load_recipe, shipped_recipes
from dalle_cli.storage.checkpoint_folder import best_step, checkpoints, held_out_losses
from dalle_cli.storage.metrics_file import SECONDS, read_reports
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.storage.small_files import load_json


def run_story(folder: RunDir) -> dict[str, Any]:
    """Return the facts of a run: data, steps, time, held-out figures, checkpoints and disk."""
    record = _read_json(folder.recipe)
    recipe, command = _table(record, "recipe"), _table(record, "command")
    reports, exported = read_reports(folder.metrics), _read_json(folder.export)
    saved = [step for step, _ in checkpoints(folder)]
    losses = held_out_losses(folder)

    return {
        "folder": str(folder.root),
        "data": {**_table(record, "data"), "sources": command.get("data")},
        "validation_share": _table(recipe, "data").get("validation_share"),
        "step": max(saved) if saved else _last([exported, *reports], "step"),
        "steps": _table(recipe, "training").get("steps"),
        "seconds": _last(reports, SECONDS),
        "resolved": _table(record, "resolved"),
        "recipe": command.get("recipe"),
        "overrides": command.get("overrides") or [],
        "changes": _changes(recipe, command.get("recipe")),
        "held_out_loss": {
            str(report["step"]): report["valid/loss"]
            for report in reports
            if "valid/loss" in report
        },
        "exported_loss": _last([_table(exported, "held_out")], "loss"),
        "checkpoints": saved,
        "best_checkpoint": best_step(losses),
        "bytes": _size(folder.root),
        "checkpoint_bytes": _size(folder.checkpoints),
    }


def runs_inside(folder: Path) -> list[Path]:
    """List the runs directly below a folder that is no run, such as a demo's."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and RunDir(path).is_run)


def _changes(recipe: Mapping[str, Any], name: object) -> dict[str, list[Any]]:
    """Return the keys in which a recipe differs from a shipped one, with both values."""
    if name not in shipped_recipes():
        return {}
    try:
        shipped = load_recipe(str(name), []).model_dump()
    except DalleError:
        return {}
    before, now = flat_tables(json.loads(json.dumps(shipped))), flat_tables(recipe)
    keys = sorted(before.keys() | now.keys())
    return {key: [before.get(key), now.get(key)] for key in keys if before.get(key) != now.get(key)}


def _last(tables: list[dict[str, Any]], name: str) -> Any:
    """Return the last number of a name, or None."""
    return next((table[name] for table in reversed(tables) if _is_number(table, name)), None)


def _is_number(table: Mapping[str, Any], name: str) -> bool:
    return isinstance(table.get(name), int | float) and math.isfinite(table[name])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = load_json(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _table(tables: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = tables.get(name)
    return table if isinstance(table, dict) else {}


def _size(folder: Path) -> int:
    """Return the bytes of all files in a folder, where a run may be pruning its checkpoints."""
    files = (os.path.join(root, name) for root, _, names in os.walk(folder) for name in names)
    return sum(map(_file_size, files))


def _file_size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0
