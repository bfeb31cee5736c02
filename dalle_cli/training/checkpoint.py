"""Checkpoints that are either complete or not there, and the model folder that inference reads.

One format for every engine: safetensors files of whole tensors by parameter name, numbers as JSON, and a manifest of
sizes and checksums. Written beside, synced, manifest last, then renamed. Nothing is pickled. Where several processes
train, they write and read in one folder that all of them see; a process holds one file's tensors at a time.
"""

import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from dalle_cli.errors import DalleError
from dalle_cli.runtime.distributed import World
from dalle_cli.storage.atomic import (
    Fingerprint,
    explain_disk_failure,
    file_fingerprint,
    remove_on_failure,
    seal,
    sync_to_disk,
    write_sealed,
)
from dalle_cli.storage.lazy_tensors import Gathered, Stored
from dalle_cli.storage.model_folder import write_model
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training.engines.engine import EngineState

SCHEMA = 1
MANIFEST = "manifest.json"
NUMBERS = "state.json"
LOG = "log.json"
STEP_NAME = re.compile(r"step-\d{8,}")
CHECKPOINT_COPIES = 4  # of every parameter: itself, two moments, the average
FILE_BYTES = 2**30  # of tensors in one file, about
PARTIAL = ".partial"  # ends the name of a checkpoint that is being written


def save_checkpoint(path: Path, state: EngineState, world: World) -> None:
    """Write a checkpoint to a folder that appears complete or not at all; all processes take part.

    Raises DalleError where the disk is full or not writable; what was there before stays.
    """
    beside = path.with_name(path.name + PARTIAL)
    needed = sum(sum(tensor_bytes(tensors).values()) for tensors in state.tensors.values())
    with explain_disk_failure(f"checkpoint {path}", path, needed), remove_on_failure(beside):
        with world.main_first() as is_ours:
            if is_ours:
                shutil.rmtree(beside, ignore_errors=True)
                beside.mkdir(parents=True)
        files = dict(world.all_gather(_write_share(beside, state, world)))
        with world.main_first() as is_ours:
            if is_ours:
                files |= _write_texts(beside, {NUMBERS: state.numbers, LOG: state.unreported})
                _write_texts(beside, {MANIFEST: {"schema": SCHEMA, "files": files}})
                sync_to_disk(beside)
                shutil.rmtree(path, ignore_errors=True)
                beside.rename(path)
                sync_to_disk(path.parent)


def _write_share(folder: Path, state: EngineState, world: World) -> list[tuple[str, Fingerprint]]:
    """Write this process's share of the files of tensors, and describe them by name."""
    written = []
    for number, (file, tensors, names) in enumerate(_files(state)):
        is_ours = number % world.size == world.rank
        gathered = ((name, tensors[name]) for name in names)
        own = {name: on_cpu(tensor) for name, tensor in gathered if is_ours}
        if is_ours:
            written.append((file, write_sealed(folder / file, own)))
    return written


def _files(state: EngineState) -> Iterator[tuple[str, Mapping[str, Tensor], list[str]]]:
    """Deal the tensors out to files by name: group.safetensors, group.1.safetensors and so on."""
    for group, tensors in state.tensors.items():
        pending: list[str] = []
        n_files = n_bytes = 0
        for name, size in tensor_bytes(tensors).items():
            if n_bytes >= FILE_BYTES:
                yield _file_name(group, n_files), tensors, pending
                pending, n_bytes, n_files = [], 0, n_files + 1
            pending.append(name)
            n_bytes += size
        yield _file_name(group, n_files), tensors, pending


def _file_name(group: str, number: int) -> str:
    return f"{group}.{number}.safetensors" if number else f"{group}.safetensors"


def _write_texts(folder: Path, contents: dict[str, Any]) -> dict[str, Fingerprint]:
    """Write JSON files and bring them safely to disk; describe them by name."""
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content, indent=1))
    return {name: seal(folder / name) for name in contents}


def check_checkpoint(path: Path) -> list[Path]:
    """Check every file against the manifest; give their names, or raise DalleError naming what is wrong."""
    with _explain_corruption(path):
        manifest = json.loads((path / MANIFEST).read_text())
        if manifest["schema"] != SCHEMA:
            raise DalleError(
                f"corrupt checkpoint {path}: it is of format {manifest['schema']}, not {SCHEMA}"
            )
        for name, expected in manifest["files"].items():
            if file_fingerprint(path / Path(name).name) != expected:
                raise DalleError(f"corrupt checkpoint {path}: {name} does not match its checksum")
        return [Path(name) for name in manifest["files"]]


def load_checkpoint(path: Path) -> EngineState:
    """Read a checkpoint back after checking it, each tensor when it is asked for.

    Raises DalleError naming what is wrong.
    """
    files: dict[str, list[Path]] = {}
    for name in check_checkpoint(path):
        if name.suffix == ".safetensors":
            files.setdefault(name.name.partition(".")[0], []).append(path / name.name)
    with _explain_corruption(path):
        tensors = {group: Stored(own) for group, own in files.items()}
        numbers, unreported = (json.loads((path / name).read_text()) for name in (NUMBERS, LOG))
        return EngineState(tensors, numbers, unreported)


@contextmanager
def _explain_corruption(path: Path) -> Iterator[None]:
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
    named = (
        path
        for path in run.checkpoints.glob("step-*")
        if STEP_NAME.fullmatch(path.name.removesuffix(PARTIAL))
    )
    return sorted(path for path in named if path not in complete)


@dataclass(frozen=True)
class Saver:
    """Writes checkpoints and the model folder, and keeps the last few and the best; all processes take part."""

    run: RunDir
    model_config: dict[str, Any]
    keep: int
    world: World

    def save(
        self, state: EngineState, weights: Mapping[str, Tensor], valid_loss: float | None
    ) -> None:
        """Save the model folder, from the weights that inference uses, then the state under its step.

        valid_loss, where it was measured at this step, decides which checkpoint is best.
        """
        if valid_loss is not None:
            state.numbers["valid_loss"] = valid_loss
        step = int(state.numbers["step"])
        save_model(self.run.model, self.model_config, weights, self.world)
        save_checkpoint(self.run.checkpoint(step), state, self.world)
        if self.world.is_main:
            self._prune(step)

    def _prune(self, newest: int) -> None:
        """Remove checkpoints before the last few, but the best; later ones, which were found corrupt, don't count."""
        saved = [path for step, path in checkpoints(self.run) if step <= newest]
        scores = {path: _valid_loss(path) for path in saved}
        best = min(
            (path for path in saved if math.isfinite(scores[path])),
            key=lambda path: scores[path],
            default=None,
        )
        for path in saved[: -self.keep]:
            if path != best:
                shutil.rmtree(path, ignore_errors=True)
        for path in self.run.checkpoints.glob(f"step-*{PARTIAL}"):
            shutil.rmtree(path, ignore_errors=True)


def save_model(
    folder: Path, config: dict[str, Any], weights: Mapping[str, Tensor], world: World
) -> None:
    """Write what inference needs, each file whole or not at all; raises DalleError like `save_checkpoint`.

    The main process gathers all weights in its memory for that.
    """
    gathered = ((name, weights[name]) for name in weights)
    own = {name: on_cpu(tensor) for name, tensor in gathered if world.is_main}
    with world.main_first() as is_ours:
        if is_ours:
            write_model(folder, config, own)


def tensor_bytes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Count the bytes of each tensor; those that are gathered on request are not gathered for that."""
    if isinstance(tensors, Gathered):
        return {
            name: shape.numel() * torch.float32.itemsize for name, shape in tensors.shapes.items()
        }
    return {name: tensor.nbytes for name, tensor in tensors.items()}


def on_cpu(tensor: Tensor) -> Tensor:
    """Return a tensor as safetensors stores it: contiguous, on the CPU."""
    return tensor.detach().cpu().contiguous()


def _valid_loss(path: Path) -> float:
    try:
        return json.loads((path / NUMBERS).read_text()).get("valid_loss", float("inf"))
    except (OSError, ValueError):
        return float("inf")
