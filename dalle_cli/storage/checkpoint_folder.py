"""Checkpoints on disk: their files, whether they are intact, and the weights that inference uses.

A checkpoint is a folder of safetensors files of whole tensors by parameter name, one group of
tensors in one file or several, with numbers as JSON and a manifest of sizes and checksums, which is
written last. `training.checkpoint` writes them. Knows nothing of training.
"""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, FiniteFloat, TypeAdapter, ValidationError
from safetensors import SafetensorError

from dalle_cli.errors import DalleError, UsageError
from dalle_cli.storage.atomic import file_fingerprint
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.storage.small_files import load_json

MANIFEST_SCHEMA = 1
MANIFEST = "manifest.json"
NUMBERS = "state.json"
LOG = "log.json"
LOSSES = "losses.json"
VALID_LOSS = "valid_loss"  # among the numbers; it alone may be no number, in runs of 0.1.0
STEP_NAME = re.compile(r"step-\d{8,}")
WEIGHT_GROUPS = ("ema", "parameters")  # the average, where one is kept, is what inference uses


class SealedFile(BaseModel, strict=True, extra="forbid"):
    """What a manifest states of a file, see `storage.atomic.seal`."""

    bytes: int
    sha256: str


class Manifest(BaseModel, strict=True):
    """The content of `manifest.json`."""

    files: dict[str, SealedFile]


_NUMBERS = TypeAdapter(dict[str, int | float], config=ConfigDict(strict=True))
_LOSSES = TypeAdapter(list[FiniteFloat], config=ConfigDict(strict=True))
_FIGURES = TypeAdapter(list[dict[str, float]], config=ConfigDict(strict=True))


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
        return float(load_json(path / NUMBERS).get(VALID_LOSS, math.inf))
    except (OSError, ValueError, TypeError, AttributeError, OverflowError):
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

    Numbers and figures are checked, too, unless only some files are. Raises DalleError naming what
    is wrong.
    """
    files = manifest_files(path)
    with explain_corruption(path):
        for name, expected in files.items():
            is_checked = only is None or name.name in only
            if is_checked and file_fingerprint(path / name.name) != expected:
                raise DalleError(f"corrupt checkpoint {path}: {name} does not match its checksum")
    if only is None:
        read_numbers(path)
        read_unreported(path)
        read_losses(path)
    return list(files)


def manifest_files(path: Path) -> dict[Path, object]:
    """Read the names and the fingerprints of a checkpoint's files; raises DalleError if damaged."""
    with explain_corruption(path):
        content = load_json(path / MANIFEST)
        if content["schema"] != MANIFEST_SCHEMA:
            raise ValueError(f"it is of format {content['schema']}, not {MANIFEST_SCHEMA}")
        files = Manifest.model_validate(content).files
        missing = {NUMBERS, LOG} - files.keys()
        if missing:
            raise ValueError(f"{MANIFEST} does not name {min(missing)}")
        return {Path(name): expected.model_dump() for name, expected in files.items()}


def read_numbers(path: Path) -> dict[str, int | float]:
    """Read the numbers of a checkpoint; raises DalleError where one can't be right."""
    with explain_corruption(path):
        numbers = _NUMBERS.validate_python(load_json(path / NUMBERS))
        step = step_of(path)
        if numbers.get("step") != step:
            raise ValueError(f"{NUMBERS} is of step {numbers.get('step')}, not {step}")
        for name, value in numbers.items():
            is_count = isinstance(value, int)
            is_possible = 0 <= value <= step if is_count else math.isfinite(value)
            if not is_possible and name != VALID_LOSS:
                raise ValueError(f"{NUMBERS}: `{name}` is {value}")
        return numbers


def read_unreported(path: Path) -> list[dict[str, float]]:
    """Read the figures that were not reported yet; raises DalleError where they are none."""
    with explain_corruption(path):
        return _FIGURES.validate_python(load_json(path / LOG))


def read_losses(path: Path) -> list[float]:
    """Read the last losses, which a checkpoint of 0.1.0 lacks; raises DalleError if damaged."""
    if not (path / LOSSES).exists():
        return []
    with explain_corruption(path):
        return _LOSSES.validate_python(load_json(path / LOSSES))


@contextmanager
def explain_corruption(path: Path) -> Iterator[None]:
    """Convert the failures of reading a checkpoint into a DalleError that names it."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DalleError(f"corrupt checkpoint {path}: {where}: {first['msg']}") from error
    except (OSError, KeyError, TypeError, AttributeError, ValueError, SafetensorError) as error:
        raise DalleError(f"corrupt checkpoint {path}: {error}") from error
