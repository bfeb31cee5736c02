"""Checkpoints that are either complete or absent, written and read, and which of them are kept.

One format for every engine: safetensors files of whole tensors by parameter name, numbers as JSON,
and a manifest of sizes and checksums. A checkpoint is written to a temporary folder and synced, the
manifest last, and then renamed. Nothing is pickled. If several processes train, they write and read
in a folder that all of them see; a process holds the tensors of one file at a time. Saving also
renews `model/`, which inference reads.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dalle_cli.errors import DalleError
from dalle_cli.runtime.distributed import World
from dalle_cli.storage.atomic import (
    Fingerprint,
    remove_on_failure,
    seal,
    sync_to_disk,
)
from dalle_cli.storage.checkpoint_folder import (
    LOG,
    LOSSES,
    MANIFEST,
    MANIFEST_SCHEMA,
    NUMBERS,
    STEP_NAME,
    VALID_LOSS,
    WEIGHT_GROUPS,
    best_step,
    check_checkpoint,
    checkpoints,
    explain_corruption,
    held_out_losses,
    read_losses,
    read_numbers,
    read_unreported,
    step_of,
)
from dalle_cli.storage.integrity.disk_space import explain_disk_failure
from dalle_cli.storage.integrity.tensor_files import write_sealed
from dalle_cli.storage.lazy_tensors import Gathered, Stored
from dalle_cli.storage.model_folder import is_undamaged_model, write_model
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training.engines.engine import EngineState
from dalle_cli.training.optimization.divergence import TOO_FAST, Diverged

FILE_BYTES = 2**30  # of tensors in a file, about
SEEN_WITHIN = 60.0  # seconds; a network disk tells other machines late of a new folder
PARTIAL = ".partial"  # ends the name of a checkpoint that is being written
REMOVED = ".removed"  # ends the name of a checkpoint that is being removed


def save_checkpoint(path: Path, state: EngineState, world: World) -> None:
    """Write a checkpoint to a folder that appears complete or not at all; every process takes part.

    Raises DalleError where the disk is full or not writable, and FloatingPointError where a weight
    is not finite; what was there before stays.
    """
    partial = path.with_name(path.name + PARTIAL)
    needed = sum(sum(tensor_bytes(tensors).values()) for tensors in state.tensors.values())
    hint = "earlier saves are untouched"
    with explain_disk_failure(path, needed, hint=hint), remove_on_failure(partial):
        with world.main_first() as is_ours:
            if is_ours:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)

        files = dict(world.all_gather(_write_share(partial, state, world)))

        with world.main_first() as is_ours:
            if is_ours:
                texts = {NUMBERS: state.numbers, LOG: state.unreported, LOSSES: state.losses}
                files |= _write_texts(partial, texts)
                _write_texts(partial, {MANIFEST: {"schema": MANIFEST_SCHEMA, "files": files}})
                sync_to_disk(partial)
                _remove(path)
                partial.rename(path)
                sync_to_disk(path.parent)


def _remove(path: Path) -> None:
    """Remove a checkpoint, if it is there, by another name: half of one would look like damage."""
    doomed = path.with_name(path.name + REMOVED)
    if path.is_dir() and not path.is_symlink():
        path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _write_share(folder: Path, state: EngineState, world: World) -> list[tuple[str, Fingerprint]]:
    """Write this process's share of the tensor files; return their names and fingerprints."""
    written = []
    for number, (file, tensors, names) in enumerate(_files(state)):
        is_ours = number % world.size == world.rank
        are_weights = file.partition(".")[0] in WEIGHT_GROUPS
        gathered = _gathered(tensors, names, are_weights=are_weights)
        on_disk = {name: on_cpu(tensor) for name, tensor in gathered if is_ours}
        if is_ours:
            _wait_until_seen(folder, world)
            written.append((file, write_sealed(folder / file, on_disk)))
    return written


def _wait_until_seen(folder: Path, world: World) -> None:
    """Wait for a folder that the main process has made; raises DalleError if it does not appear."""
    deadline = time.monotonic() + SEEN_WITHIN
    while not folder.is_dir():
        if time.monotonic() > deadline:
            message = f"process {world.rank} does not see {folder}, which process 0 has made"
            raise DalleError(message, "the run's folder must be one that all machines see")
        time.sleep(0.1)


def _gathered(
    tensors: Mapping[str, Tensor], names: Iterable[str], *, are_weights: bool
) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors by name, gathered by all processes.

    Raises FloatingPointError, in all of them, for a weight that is not finite.
    """
    for name in names:
        tensor = tensors[name]
        if are_weights and not bool(tensor.isfinite().all()):
            raise FloatingPointError(name)
        yield name, tensor


def _files(state: EngineState) -> Iterator[tuple[str, Mapping[str, Tensor], list[str]]]:
    """Assign the tensors to files by name: group.safetensors, group.1.safetensors and so on.

    Yields each file's name, the tensors of its group, and the names of those in the file.
    """
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
    """Write JSON files by name and sync them to disk; return their fingerprints."""
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content, indent=1))
    return {name: seal(folder / name) for name in contents}


def load_checkpoint(path: Path) -> EngineState:
    """Load a checkpoint after checking it; each tensor is read when it is asked for.

    Raises DalleError naming what is wrong.
    """
    files: dict[str, list[Path]] = {}
    for name in check_checkpoint(path):
        if name.suffix == ".safetensors":
            files.setdefault(name.name.partition(".")[0], []).append(path / name.name)

    with explain_corruption(path):
        tensors = {group: Stored(paths) for group, paths in files.items()}
    return EngineState(tensors, read_numbers(path), read_unreported(path), read_losses(path))


def check_place_for_checkpoints(folder: RunDir, step: int) -> None:
    """Raise DalleError where something stands in the way of the checkpoints after a step."""
    for path in sorted(folder.checkpoints.glob("step-*")):
        is_later = STEP_NAME.fullmatch(path.name) and step_of(path) > step
        if is_later and (path.is_symlink() or not path.is_dir()):
            what = "a link" if path.is_symlink() else "a file"
            message = f"{path} is {what}, where a checkpoint is to be written"
            raise DalleError(message, "move it away")


def incomplete_checkpoints(folder: RunDir) -> list[Path]:
    """List the remains of interrupted saves, folders renamed by someone excepted."""
    complete = {path for _, path in checkpoints(folder)}
    named = (
        path
        for path in folder.checkpoints.glob("step-*")
        if STEP_NAME.fullmatch(path.name.removesuffix(PARTIAL))
    )
    return sorted(path for path in named if path not in complete)


@dataclass(frozen=True)
class Saver:
    """Writes checkpoints and `model/`, and keeps the last few checkpoints and the best.

    warn  is called where an earlier checkpoint can't be removed

    Every process takes part in its methods.
    """

    folder: RunDir
    model_config: dict[str, Any]
    keep: int
    world: World
    warn: Callable[[str], None] = lambda text: None

    def save(
        self, state: EngineState, weights: Mapping[str, Tensor], valid_loss: float | None
    ) -> None:
        """Save `model/` from the weights that inference uses, then the state under its step.

        valid_loss  the held-out loss if it was measured at this step; it decides which checkpoint
                    is best

        Raises Diverged, without saving, where a weight is not finite.
        """
        if valid_loss is not None:
            state.numbers[VALID_LOSS] = valid_loss
        step = int(state.numbers["step"])
        self.world.reach(f"the checkpoint of step {step:,}")
        with self._refused_if_diverged():
            self.save_model(weights)
            save_checkpoint(self.folder.checkpoint(step), state, self.world)
        if self.world.is_main:
            self._prune(step)

    def save_model(self, weights: Mapping[str, Tensor]) -> None:
        """Write `model/`, each file complete or not at all.

        The main process gathers all weights in its memory for that. Raises DalleError like
        `save_checkpoint`.
        """
        gathered = _gathered(weights, weights, are_weights=True)
        on_disk = {name: on_cpu(tensor) for name, tensor in gathered if self.world.is_main}
        with self.world.main_first() as is_ours:
            if is_ours:
                write_model(self.folder.model, self.model_config, on_disk)

    def restore_model(self, weights: Mapping[str, Tensor]) -> bool:
        """Write `model/` where a crash has left the run without it, or it is damaged.

        Returns whether it was written.
        """
        is_undamaged = [self.world.is_main and is_undamaged_model(self.folder.model)]
        if self.world.all_gather(is_undamaged)[0]:
            return False
        with self._refused_if_diverged():
            self.save_model(weights)
        return True

    @contextmanager
    def _refused_if_diverged(self) -> Iterator[None]:
        try:
            yield
        except FloatingPointError as error:
            message = f"weights are not finite, {error} the first of them"
            raise Diverged(message, self.folder, TOO_FAST) from error

    def _prune(self, newest: int) -> None:
        """Remove all checkpoints but the best before the last few.

        Later ones than `newest`, which were found corrupt, don't count. One that can't be removed
        is tried again at the next save.
        """
        saved = [step for step, _ in checkpoints(self.folder) if step <= newest]
        losses = held_out_losses(self.folder)
        best = best_step({step: losses[step] for step in saved if step in losses})

        for step in saved[: -self.keep]:
            if step != best:
                try:
                    _remove(self.folder.checkpoint(step))
                except OSError as error:
                    self.warn(f"cannot remove {self.folder.checkpoint(step)}: {error.strerror}")
        self.clear_remains()

    def clear_remains(self) -> None:
        """Clear what interrupted saves and removals have left, in the main process."""
        if self.world.is_main:
            for suffix in (PARTIAL, REMOVED):
                for path in self.folder.checkpoints.glob(f"step-*{suffix}"):
                    shutil.rmtree(path, ignore_errors=True)


def tensor_bytes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return each tensor's size in bytes, without gathering those gathered on request."""
    if isinstance(tensors, Gathered):
        return tensors.sizes
    return {name: tensor.nbytes for name, tensor in tensors.items()}


def on_cpu(tensor: Tensor) -> Tensor:
    """Return a tensor as safetensors stores it: contiguous, on the CPU."""
    return tensor.detach().cpu().contiguous()
