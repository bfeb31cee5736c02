"""How a run is resumed: its record, `recipe.json`, and the checkpoint it starts from.

The record is written when a run begins and compared when it is resumed. Checking a folder changes
nothing in it. Knows nothing of models, nor of how they train.
"""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dalle_cli import __version__
from dalle_cli.config import Recipe
from dalle_cli.console import Terminal
from dalle_cli.errors import DalleError, UsageError
from dalle_cli.storage.atomic import atomic_write
from dalle_cli.storage.checkpoint_folder import check_checkpoint, checkpoints
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training.checkpoint import incomplete_checkpoints, load_checkpoint
from dalle_cli.training.engines.engine import Engine, ModelT

RECORD_SCHEMA = 2  # of recipe.json
# keys that may differ when a run is resumed; a table ends in a dot
FREE_TO_CHANGE = ("training.steps", "data.max_bad_share", "runtime.")


@dataclass(frozen=True)
class RunRecord:
    """What a run states about itself: its recipe, what `auto` was resolved to, and its data.

    zero         DeepSpeed's configuration, None for other engines
    fingerprint  of the samples at --data
    n_samples    the number of samples at --data
    held_out     "a share" of them, or the fingerprint of the samples at --valid
    """

    recipe: Mapping[str, Any]
    device: str
    precision: str
    n_processes: int
    engine: str
    zero: Mapping[str, Any] | None
    fingerprint: str
    n_samples: int
    held_out: str

    def write(self, folder: RunDir) -> None:
        """Write the record with the versions in use, making the run's folder if need be."""
        resolved = {
            "device": self.device,
            "precision": self.precision,
            "processes": self.n_processes,
            "engine": self.engine,
            "deepspeed": self.zero,
        }
        versions = {
            "dalle": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        data = {
            "fingerprint": self.fingerprint,
            "samples": self.n_samples,
            "held_out": self.held_out,
        }

        record = {
            "schema": RECORD_SCHEMA,
            "recipe": self.recipe,
            "resolved": resolved,
            "versions": versions,
            "data": data,
        }
        folder.root.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder.recipe) as temporary:
            temporary.write_text(json.dumps(record, indent=1))

    @classmethod
    def read(cls, folder: RunDir) -> "RunRecord":
        """Read a run's record; raises DalleError where it is damaged or of another format."""
        try:
            record = json.loads(folder.recipe.read_text("utf-8"))
            _check_schema(folder, record["schema"])

            resolved, data = record["resolved"], record["data"]
            return cls(
                recipe=dict(record["recipe"]),
                device=resolved["device"],
                precision=resolved["precision"],
                n_processes=resolved["processes"],
                engine=resolved["engine"],
                zero=resolved["deepspeed"],
                fingerprint=data["fingerprint"],
                n_samples=data["samples"],
                held_out=data["held_out"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            hint = "the run can't be resumed; name a new folder"
            raise DalleError(f"{folder.recipe} is damaged: {error}", hint) from error

    def check_recipe(self, folder: RunDir, recipe: Recipe) -> None:
        """Raise UsageError, listing the keys that differ, if the run began with another recipe."""
        before, now = _flat(self.recipe), _flat(recipe.model_dump())
        differing = [
            key
            for key in sorted(before.keys() | now.keys())
            if repr(before.get(key)) != repr(now.get(key)) and not key.startswith(FREE_TO_CHANGE)
        ]

        if differing:
            lines = [
                f"  `{key}`: {before.get(key, 'absent')} then, {now.get(key, 'absent')} now"
                for key in differing
            ]
            message = "\n".join([f"{folder.root} was begun with another recipe:", *lines])
            hint = "give the same recipe and --set values, or name a new folder with --run"
            raise UsageError(message, hint)


def _check_schema(folder: RunDir, schema: object) -> None:
    if schema != RECORD_SCHEMA:
        version = f"this version of dalle reads format {RECORD_SCHEMA}"
        hint = "finish the run with the version that began it, or name a new folder with --run"
        raise DalleError(f"{folder.recipe} is of format {schema}, but {version}", hint)


def check_folder(folder: RunDir, recipe: Recipe, resume: str) -> RunRecord | None:
    """Check that a folder may be written, and return the record of the run in it, if there is one.

    Raises UsageError, touching nothing, for a folder of other files, for a run under `never`, or
    for a run with another recipe.
    """
    root = folder.root
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is a file, not a folder")
    if folder.is_empty:
        return None
    if not folder.is_run:
        raise UsageError(f"{root} holds files but no run", "name a new folder with --run")
    if resume == "never":
        hint = "name a new folder, or leave out `--resume never`"
        raise UsageError(f"{root} already holds a run", hint)

    record = RunRecord.read(folder)
    record.check_recipe(folder, recipe)
    return record


def starting_checkpoint(folder: RunDir, resume: str, terminal: Terminal) -> Path | None:
    """Return the checkpoint to resume from: the one named, or the newest intact one.

    Returns None for a new run. Raises DalleError where all checkpoints are corrupt.
    """
    if resume not in ("auto", "never"):
        return _named_checkpoint(folder, Path(resume))

    for path in incomplete_checkpoints(folder):
        terminal.warn(f"ignored an incomplete checkpoint: {path}")
    saved = checkpoints(folder)
    for _, path in reversed(saved):
        try:
            check_checkpoint(path)
        except DalleError as error:
            terminal.warn(f"ignored a {error.message}")
        else:
            return path

    if saved:
        hint = "name a new folder with --run to start again"
        raise DalleError(f"every checkpoint of {folder.root} is corrupt", hint)
    return None


def _named_checkpoint(folder: RunDir, path: Path) -> Path:
    """Return a checkpoint of this run if no later ones exist: they would belong to another history.

    Raises UsageError where they do, or where the path is not a checkpoint of this run.
    """
    steps = {saved.resolve(): step for step, saved in checkpoints(folder)}
    if path.resolve() not in steps:
        hint = f"its checkpoints are in {folder.checkpoints}"
        raise UsageError(f"no such checkpoint of {folder.root}: {path}", hint)

    later = [step for step in steps.values() if step > steps[path.resolve()]]
    if later:
        message = f"{folder.root} holds later checkpoints, up to step {max(later)}"
        raise UsageError(message, "move them away first")
    check_checkpoint(path)
    return path


def restore_engine(
    engine: Engine[ModelT], checkpoint: Path | None, terminal: Terminal
) -> list[dict[str, float]]:
    """Restore an engine from a checkpoint, if there is one to resume from.

    Returns the log's figures that were not yet reported. Raises DalleError where the checkpoint is
    corrupt or does not fit the engine's model.
    """
    if checkpoint is None:
        return []

    state = load_checkpoint(checkpoint)
    try:
        engine.restore(state)
    except (ValueError, KeyError) as error:
        raise DalleError(f"the checkpoint does not fit this run: {error}") from error
    terminal.say(f"resumed after step {engine.step}")
    return state.unreported


def _flat(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested tables to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
