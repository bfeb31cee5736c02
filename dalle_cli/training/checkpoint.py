"""Checkpoints that are either complete or not there, and the model folder that inference reads.

One format for every engine: safetensors files of whole tensors by parameter name, numbers as JSON, and a manifest of
sizes and checksums. Written beside, synced, manifest last, then renamed. Nothing is pickled.
"""

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dalle_cli.errors import DalleError
from dalle_cli.run_dir import CONFIG, WEIGHTS, RunDir, whole_or_absent
from dalle_cli.training.engine import EngineState

SCHEMA = 1
MANIFEST = "manifest.json"
NUMBERS = "state.json"
LOG = "log.json"
STEP_NAME = re.compile(r"step-\d{8,}")
PARTIAL = ".partial"  # ends the name of a checkpoint that is being written


def save_checkpoint(path: Path, state: EngineState) -> None:
    """Write a checkpoint to a folder that appears complete or not at all.

    Raises DalleError where the disk is full or not writable; what was there before stays.
    """
    beside = path.with_name(path.name + PARTIAL)
    with _told_when_the_disk_fails(f"checkpoint {path}", path, state.tensors.values()), _removed_on_failure(beside):
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        for group, tensors in state.tensors.items():
            save_file(_on_cpu(tensors), beside / f"{group}.safetensors")
        (beside / NUMBERS).write_text(json.dumps(state.numbers))
        (beside / LOG).write_text(json.dumps(state.unreported))
        files = {file.name: _seal(file) for file in sorted(beside.iterdir())}
        (beside / MANIFEST).write_text(json.dumps({"schema": SCHEMA, "files": files}, indent=1))
        _sync(beside / MANIFEST)
        _sync(beside)
        shutil.rmtree(path, ignore_errors=True)
        beside.rename(path)
        _sync(path.parent)


@contextmanager
def _told_when_the_disk_fails(what: str, path: Path, groups: Iterable[dict[str, Tensor]]) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        needed = sum(t.numel() * t.element_size() for tensors in groups for t in tensors.values())
        free = free_bytes(path)
        raise DalleError(
            f"cannot write {what}: {error}",
            f"it needs {needed / 2**20:.1f} MiB, free are {free / 2**20:.1f} MiB; what was saved before is untouched",
        ) from error


def free_bytes(path: Path) -> int:
    """How much room there is where a file or folder, existing or not, would lie."""
    return shutil.disk_usage(next(parent for parent in path.absolute().parents if parent.exists())).free


@contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def check_checkpoint(path: Path) -> list[Path]:
    """Check every file against the manifest; give their names, or raise DalleError naming what is wrong."""
    with _told_when_corrupt(path):
        manifest = json.loads((path / MANIFEST).read_text())
        if manifest["schema"] != SCHEMA:
            raise DalleError(f"corrupt checkpoint {path}: it is of format {manifest['schema']}, not {SCHEMA}")
        for name, expected in manifest["files"].items():
            if _fingerprint(path / Path(name).name) != expected:
                raise DalleError(f"corrupt checkpoint {path}: {name} does not match its checksum")
        return [Path(name) for name in manifest["files"]]


def load_checkpoint(path: Path) -> EngineState:
    """Read a checkpoint back after checking it; raises DalleError naming what is wrong."""
    groups = [name for name in check_checkpoint(path) if name.suffix == ".safetensors"]
    with _told_when_corrupt(path):
        tensors = {group.stem: load_file(path / group.name) for group in groups}
        numbers, unreported = (json.loads((path / name).read_text()) for name in (NUMBERS, LOG))
        return EngineState(tensors, numbers, unreported)


@contextmanager
def _told_when_corrupt(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError, TypeError, AttributeError, ValueError, SafetensorError) as error:
        raise DalleError(f"corrupt checkpoint {path}: {error}") from error


def checkpoints(run: RunDir) -> list[tuple[int, Path]]:
    """List the run's complete-looking checkpoints, oldest first, as step and folder."""
    named = (path for path in run.checkpoints.glob("step-*") if STEP_NAME.fullmatch(path.name))
    return sorted((step_of(path), path) for path in named if (path / MANIFEST).is_file())


def step_of(path: Path) -> int:
    """Read the step off a checkpoint's name."""
    return int(path.name.removeprefix("step-"))


def incomplete_checkpoints(run: RunDir) -> list[Path]:
    """List what an interrupted save left behind; a folder that someone has renamed is none of ours."""
    complete = {path for _, path in checkpoints(run)}
    named = (path for path in run.checkpoints.glob("step-*") if STEP_NAME.fullmatch(path.name.removesuffix(PARTIAL)))
    return sorted(path for path in named if path not in complete)


@dataclass(frozen=True)
class Saver:
    """Writes checkpoints and the model folder, and keeps the last few and the best."""

    run: RunDir
    model_config: dict[str, Any]
    keep: int

    def save(self, state: EngineState, weights: dict[str, Tensor], valid_loss: float | None) -> None:
        """Save the model folder, from the weights that inference uses, then the state under its step.

        valid_loss, where it was measured at this step, decides which checkpoint is best.
        """
        if valid_loss is not None:
            state.numbers["valid_loss"] = valid_loss
        step = int(state.numbers["step"])
        save_model(self.run.model, self.model_config, weights)
        save_checkpoint(self.run.checkpoint(step), state)
        self._prune(step)

    def _prune(self, newest: int) -> None:
        """Remove checkpoints before the last few, but the best; later ones, which were found corrupt, don't count."""
        saved = [path for step, path in checkpoints(self.run) if step <= newest]
        scores = {path: _valid_loss(path) for path in saved}
        best = min((path for path in saved if math.isfinite(scores[path])), key=lambda path: scores[path], default=None)
        for path in saved[: -self.keep]:
            if path != best:
                shutil.rmtree(path, ignore_errors=True)
        for path in self.run.checkpoints.glob(f"step-*{PARTIAL}"):
            shutil.rmtree(path, ignore_errors=True)


def save_model(folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Write what inference needs, each file whole or not at all; raises DalleError like `save_checkpoint`."""
    with _told_when_the_disk_fails(f"model {folder}", folder, [weights]):
        folder.mkdir(parents=True, exist_ok=True)
        with whole_or_absent(folder / CONFIG) as new_config, whole_or_absent(folder / WEIGHTS) as new_weights:
            new_config.write_text(json.dumps({"schema": SCHEMA, **config}, indent=1))
            save_file(_on_cpu(weights), new_weights)
            _sync(new_config)
            _sync(new_weights)
        _sync(folder)


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Lay tensors out as safetensors stores them."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _valid_loss(path: Path) -> float:
    try:
        return json.loads((path / NUMBERS).read_text()).get("valid_loss", float("inf"))
    except (OSError, ValueError):
        return float("inf")


def _seal(path: Path) -> dict[str, Any]:
    """Bring a file safely to disk and describe it."""
    _sync(path)
    return _fingerprint(path)


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
