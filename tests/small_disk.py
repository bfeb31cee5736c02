"""A folder on a disk that is full after so many bytes, in place of one that would be mounted.

What this process writes below the folder counts: through Python's files, and through safetensors.
"""

import builtins
import errno
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from safetensors import SafetensorError
from safetensors.torch import save

from dalle_cli.storage.integrity import tensor_files


class SmallDisk:
    """The disk.

    peak  the most bytes that its files have taken
    """

    def __init__(self, folder: Path, n_bytes: float) -> None:
        self.folder = folder
        self.peak = 0
        self._n_bytes = n_bytes

    @property
    def free(self) -> float:
        return self._n_bytes - self._used()

    def holds(self, file: object) -> bool:
        return isinstance(file, str | os.PathLike) and Path(file).is_relative_to(self.folder)

    def take(self, n_bytes: int) -> int:
        """Return how many of so many bytes may be written; raises OSError if none may."""
        allowed = int(min(n_bytes, self.free))
        if n_bytes and allowed <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.peak = max(self.peak, self._used() + allowed)
        return allowed

    def _used(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


@contextmanager
def small_disk(folder: Path, n_bytes: float = float("inf")) -> Iterator[SmallDisk]:
    """Put a folder on a disk of so many bytes for the duration of a `with`."""
    disk = SmallDisk(folder, n_bytes)
    opened = _opener(disk, io.open)

    def save_file(tensors: dict, path: Path, metadata: dict | None = None) -> None:
        try:
            with opened(path, "wb") as file:
                file.write(save(tensors, metadata))
        except OSError as error:
            reason = f"I/O error: {error.strerror} (os error {error.errno})"
            raise SafetensorError(f"Error while serializing: {reason}") from None

    usage = shutil.disk_usage

    def disk_usage(path: Any) -> Any:
        is_here = Path(path).is_relative_to(folder)
        return SimpleNamespace(free=int(disk.free)) if is_here else usage(path)

    with (
        mock.patch.object(builtins, "open", opened),
        mock.patch.object(io, "open", opened),
        mock.patch.object(tensor_files, "save_file", save_file),
        mock.patch.object(shutil, "disk_usage", disk_usage),
    ):
        yield disk


def _opener(disk: SmallDisk, real: Callable) -> Callable:
    """Return an `open` whose files below the disk's folder are written to the disk."""

    def opened(file: Any, mode: str = "r", buffering: int = -1, *words: Any, **named: Any) -> Any:
        if set(mode) <= set("rbt") or not disk.holds(file):
            return real(file, mode, buffering, *words, **named)

        raw = _SmallFile(disk, file, mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *words, **named)

    return opened


class _SmallFile(io.FileIO):
    """A file on the disk; like any, it may be written in part."""

    def __init__(self, disk: SmallDisk, file: Any, mode: str) -> None:
        super().__init__(file, mode)
        self._disk = disk

    def write(self, data: Any) -> int:
        content = bytes(data)
        is_at_end = self.tell() >= os.fstat(self.fileno()).st_size
        allowed = self._disk.take(len(content)) if is_at_end else len(content)
        return super().write(content[:allowed])
