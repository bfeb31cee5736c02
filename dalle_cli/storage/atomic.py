"""storage.atomic: to be described."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dalle_cli.errors import DalleError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a path beside another to write to; it takes the other's place once it is written."""
    beside = path.with_name(f".{path.name}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Keep other commands from writing to a folder inside a `with`; raises DalleError where one is at it already.

    The lock is the system's, ends with the process and leaves nothing behind. File systems without locks go without.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = "wait for its end, or name another folder"
            raise DalleError(f"another command is writing to {folder}", hint) from None
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)


Fingerprint = dict[str, Any]


def write_sealed(file: Path, tensors: dict[str, Tensor]) -> Fingerprint:
    """Write a safetensors file, bring it safely to disk and describe it."""
    save_file(tensors, file)
    return seal(file)


@contextmanager
def explain_disk_failure(what: str, path: Path, needed: int) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        free = free_disk(path)
        raise DalleError(
            f"cannot write {what}: {error}",
            f"it needs {needed / 2**20:.1f} MiB, free are {free / 2**20:.1f} MiB; what was saved before is untouched",
        ) from error


def free_disk(path: Path) -> int:
    """How much room there is where a file or folder, existing or not, would lie."""
    return shutil.disk_usage(
        next(parent for parent in path.absolute().parents if parent.exists())
    ).free


@contextmanager
def remove_on_failure(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def seal(path: Path) -> Fingerprint:
    """Bring a file safely to disk and describe it."""
    sync_to_disk(path)
    return file_fingerprint(path)


def file_fingerprint(path: Path) -> Fingerprint:
    with path.open("rb") as file:
        return {
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def sync_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
