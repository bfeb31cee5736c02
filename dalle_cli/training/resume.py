"""May a run folder be written, and where does its training go on? Answers without changing anything."""

import json
from pathlib import Path
from typing import Any

from dalle_cli.config import Recipe
from dalle_cli.console import Terminal
from dalle_cli.errors import DalleError, UsageError
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training.checkpoint import (
    SCHEMA,
    check_checkpoint,
    checkpoints,
    incomplete_checkpoints,
)

FREE_TO_CHANGE = (
    "training.steps",
    "data.max_bad_share",
    "runtime.",
)  # what a resumed run may say differently


def check_folder(run: RunDir, recipe: Recipe, resume: str) -> dict[str, Any] | None:
    """Make sure that the folder may be written; give what a run there has recorded of itself, if it holds one.

    Raises UsageError, touching nothing, for a folder of other files, a run under `never`, or another recipe.
    """
    if run.root.exists() and not run.root.is_dir():
        raise UsageError(f"{run.root} is a file, not a folder")
    if run.is_empty:
        return None
    if not run.is_run:
        raise UsageError(f"{run.root} holds files but no run", "name a new folder with --run")
    if resume == "never":
        raise UsageError(
            f"{run.root} already holds a run", "name a new folder, or leave out `--resume never`"
        )
    try:
        recorded = json.loads(run.recipe.read_text("utf-8"))
        before = _flat(recorded["recipe"])
        _ = (
            recorded["resolved"]["precision"],
            recorded["data"]["fingerprint"],
            recorded["data"]["held_out"],
        )
        schema = recorded["schema"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DalleError(
            f"{run.recipe} is damaged: {error}", "the run can't be resumed; name a new folder"
        ) from error
    if schema != SCHEMA:
        raise DalleError(
            f"{run.recipe} is of format {schema}, this dalle reads {SCHEMA}",
            "use the dalle that wrote it",
        )
    now = _flat(recipe.model_dump())
    differing = [
        key
        for key in sorted(before.keys() | now.keys())
        if repr(before.get(key)) != repr(now.get(key))
    ]
    differing = [key for key in differing if not key.startswith(FREE_TO_CHANGE)]
    if differing:
        lines = [
            f"  `{key}`: {before.get(key, 'absent')} then, {now.get(key, 'absent')} now"
            for key in differing
        ]
        message = "\n".join([f"{run.root} was begun with another recipe:", *lines])
        raise UsageError(
            message, "give the same recipe and --set values, or name a new folder with --run"
        )
    return recorded


def starting_checkpoint(run: RunDir, resume: str, terminal: Terminal) -> Path | None:
    """Find the checkpoint to go on from: the one named, or the run's newest sound one; None for a fresh start."""
    if resume not in ("auto", "never"):
        return _named_checkpoint(run, Path(resume))
    for path in incomplete_checkpoints(run):
        terminal.warn(f"ignored an incomplete checkpoint: {path}")
    saved = checkpoints(run)
    for _, path in reversed(saved):
        try:
            check_checkpoint(path)
        except DalleError as error:
            terminal.warn(f"ignored a {error.message}")
        else:
            return path
    if saved:
        raise DalleError(
            f"every checkpoint of {run.root} is corrupt",
            "name a new folder with --run to start again",
        )
    return None


def _named_checkpoint(run: RunDir, path: Path) -> Path:
    """Find one of the run's own checkpoints, after which there may be no others: they would be of another history."""
    own = {folder.resolve(): step for step, folder in checkpoints(run)}
    if path.resolve() not in own:
        raise UsageError(
            f"no such checkpoint of {run.root}: {path}", f"they lie in {run.checkpoints}"
        )
    later = [step for step in own.values() if step > own[path.resolve()]]
    if later:
        raise UsageError(
            f"{run.root} holds later checkpoints, up to step {max(later)}", "move them away first"
        )
    check_checkpoint(path)
    return path


def _flat(tables: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested tables to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
