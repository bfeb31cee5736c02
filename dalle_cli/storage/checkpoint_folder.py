"""Checkpoints on disk: their files, whether they are intact, and the weights that inference uses.

A checkpoint is a folder of safetensors files of whole tensors by parameter name, one group of
tensors in one file or several, with numbers as JSON and a manifest of sizes and checksums, which is
written last. `training.checkpoint` writes them. Knows nothing of training.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError

from dalle_cli.errors import DalleError, UsageError
from dalle_cli.storage.atomic import file_fingerprint
from dalle_cli.storage.run_dir import RunDir

MANIFEST_SCHEMA = 1
MANIFEST = "manifest.json"
NUMBERS = "state.json"
LOG = "log.json"
STEP_NAME = re.compile(r"step-\d{8,}")
WEIGHT_GROUPS = ("ema", "parameters")  # the average, where one is kept, is what inference uses


class SavedWeights(NamedTuple):
    """The weights of a checkpoint that inference uses: its step, and safetensors files."""

    step: int
    files: list[Path]


def checkpoints(folder: RunDir) -> list[tuple[int, Path]]:
    """List a run's checkpoints that have a manifest, oldest first, as step and folder."""
    named = (path for path in folder.checkpoints.glob("step-*") if STEP_NAME.fullmatch(path.name))
    return sorted((step_of(path), path) for path in named if (path / MANIFEST).is_file())


def step_of(path: Path) -> int:
    """Parse the step from a checkpoint's name."""
    return int(path.name.removeprefix("step-"))


def held_out_losses(folder: RunDir) -> dict[int, float]:
    """Return the held-out loss at each checkpoint's step, oldest first, where it was measured."""
    losses = {step: _valid_loss(path) for step, path in checkpoints(folder)}
    return {step: loss for step, loss in losses.items() if math.isfinite(loss)}


def best_step(losses: Mapping[int, float]) -> int | None:
    """Return the step with the lowest held-out loss, the first of several; None if there is none.

    losses  see `held_out_losses`
    """
    return min(losses, key=lambda step: losses[step], default=None)


def _valid_loss(path: Path) -> float:
    try:
        return float(json.loads((path / NUMBERS).read_text()).get("valid_loss", math.inf))
    except (OSError, ValueError, TypeError, AttributeError):
        return math.inf


def find_saved_weights(folder: RunDir, choice: str) -> SavedWeights:
    """Return the inference weights of a run's checkpoint, after checking them.

    choice  "best" by held-out loss, "last", or a step

    Raises UsageError, listing the steps there are, if the run has no such checkpoint, and
    DalleError if it is corrupt.
    """
    saved = dict(checkpoints(folder))
    if not saved:
        hint = "leave out `--checkpoint` for the weights in its model folder"
        raise UsageError(f"{folder.root} has no checkpoints", hint)

    named = {"best": best_step(held_out_losses(folder)), "last": max(saved)}
    step = named[choice] if choice in named else int(choice)
    if step is not None and step in saved:
        return SavedWeights(step, _weight_files(saved[step]))

    steps = f"its checkpoints are of step {', '.join(map(str, saved))}"
    if step is None:
        message = f"no checkpoint of {folder.root} has a held-out loss"
        raise UsageError(message, f"name one by its step: {steps}")
    raise UsageError(f"{folder.root} has no checkpoint of step {step}", steps)


def _weight_files(path: Path) -> list[Path]:
    """Return the files of a checkpoint's inference weights, after checking them."""
    names = [name.name for name in manifest_files(path)]
    for group in WEIGHT_GROUPS:
        members = [name for name in names if name.partition(".")[0] == group]
        if members:
            check_checkpoint(path, only=members)
            return [path / name for name in members]
    raise DalleError(f"corrupt checkpoint {path}: it holds no weights")


def check_checkpoint(path: Path, only: list[str] | None = None) -> list[Path]:
    """Check every file, or only some, against the manifest, and return the names of all files.

    Raises DalleError naming what is wrong.
    """
    files = manifest_files(path)
    with explain_corruption(path):
        for name, expected in files.items():
            is_checked = only is None or name.name in only
            if is_checked and file_fingerprint(path / name.name) != expected:
                raise DalleError(f"corrupt checkpoint {path}: {name} does not match its checksum")
    return list(files)


def manifest_files(path: Path) -> dict[Path, object]:
    """Read the names and the fingerprints of a checkpoint's files; raises DalleError if damaged."""
    with explain_corruption(path):
        manifest = json.loads((path / MANIFEST).read_text())
        if manifest["schema"] != MANIFEST_SCHEMA:
            found = f"it is of format {manifest['schema']}, not {MANIFEST_SCHEMA}"
            raise DalleError(f"corrupt checkpoint {path}: {found}")
        return {Path(name): expected for name, expected in manifest["files"].items()}


@contextmanager
def explain_corruption(path: Path) -> Iterator[None]:
    """Convert the failures of reading a checkpoint into a DalleError that names it."""
    try:
        yield
    except (OSError, KeyError, TypeError, AttributeError, ValueError, SafetensorError) as error:
        raise DalleError(f"corrupt checkpoint {path}: {error}") from error
