"""File primitives that survive an interruption: atomic writes, exclusive locks and sealed files.

Every file that a command leaves is written here: complete or not at all, and a full disk names it.
A file is sealed once it has reached the disk and its size and checksum are known. Knows nothing of
what the files hold. Imports no torch.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.util import register_after_fork
from pathlib import Path
from typing import Any

from dalle_cli.errors import DalleError, printable
from dalle_cli.storage.integrity.disk_space import (
    BLOCK,
    DiskFullError,
    explain_disk_failure,
    is_of_a_full_disk,
    used_disk,
)
from dalle_cli.storage.run_dir import UNFINISHED
from dalle_cli.storage.small_files import check_regular

try:
    import fcntl
except ImportError:  # not on POSIX
    fcntl = None  # type: ignore[assignment]

COPIED_TOGETHER = 2**20  # bytes

Fingerprint = dict[str, Any]


@contextmanager
def atomic_write(path: Path, needed: int) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which replaces `path` at the end of the `with`.

    needed  bytes that will be written

    If the `with` raises, the temporary file is removed and `path` stays as it was. Raises
    DalleError, naming `path`, where the disk is full or not writable.
    """
    temporary = path.with_name(f".{path.name}")
    with explain_disk_failure(path, needed):
        try:
            yield temporary
            os.replace(temporary, path)
        finally:  # before the free bytes are counted
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_file(path: Path, content: bytes | str) -> None:
    """Write a file, text as UTF-8, that appears complete or not at all.

    Raises DalleError like `atomic_write`.
    """
    data = content.encode() if isinstance(content, str) else content
    with atomic_write(path, len(data)) as temporary:
        temporary.write_bytes(data)


def copy_file(source: Path, path: Path) -> None:
    """Copy a file's content; the copy appears complete or not at all.

    Raises OSError if the source can't be read, and DalleError like `atomic_write`.
    """
    with (
        source.open("rb") as original,
        atomic_write(path, source.stat().st_size) as temporary,
        temporary.open("wb") as copy,
    ):
        shutil.copyfileobj(original, copy, COPIED_TOGETHER)


def append_to_file(path: Path, text: str) -> None:
    """Append a text to a file, completely or not at all; raises DalleError like `atomic_write`."""
    data = text.encode()
    with (
        explain_disk_failure(path, len(data)),
        path.open("ab", buffering=0) as file,  # so that nothing is written after the cut
    ):
        before = file.tell()
        try:
            n_written = 0
            while n_written < len(data):
                n_written += file.write(data[n_written:])
        except BaseException:
            file.truncate(before)
            raise


def make_folder(folder: Path, *, named: Path | None = None) -> None:
    """Make a folder and those above it, unless it is there; raises DalleError where it can't be.

    named  the folder that the message names, if another
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if is_of_a_full_disk(error):
            raise DiskFullError(named or folder, BLOCK) from error
        reason = _dangling_link(folder) or error.strerror
        message = f"cannot make the folder {printable(str(named or folder))}: {reason}"
        raise DalleError(message, "name one below a folder that you may write to") from error


def _dangling_link(folder: Path) -> str:
    """Return which part of a path is a link to nothing, or ""."""
    for path in (folder, *folder.parents):
        if path.is_symlink() and not path.exists():
            return f"{printable(str(path))} is a link to nothing"
    return ""


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder whose content becomes that of `folder`, an absent or empty one.

    It is beside an absent folder, and inside an empty one, which may be a disk of its own, or the
    current folder of a shell. If the `with` raises, the hidden folder is removed; what an earlier
    command left of it is, too. A full disk is told of the files in `folder`, with what all of them
    need so far.
    """
    target = folder.absolute()
    is_there = target.is_dir()
    staging = target / UNFINISHED if is_there else target.with_name(f".{target.name}{UNFINISHED}")
    shutil.rmtree(staging, ignore_errors=True)
    with remove_on_failure(staging):
        make_folder(staging, named=folder)
        try:
            yield staging
        except DiskFullError as full:
            if not full.path.is_relative_to(staging):
                raise
            needed = used_disk(staging) + full.needed
            shutil.rmtree(staging, ignore_errors=True)
            path = folder / full.path.relative_to(staging)
            what = f"{printable(str(folder))} needs at least"
            raise DiskFullError(path, needed, what=what) from full

        if is_there:
            for path in staging.iterdir():
                path.rename(target / path.name)
            staging.rmdir()
        else:
            staging.rename(target)


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Lock a folder against other commands that write to it, for the duration of a `with`.

    The lock is the operating system's and ends with the process, even if data workers outlive it
    for a while. On POSIX it leaves no file behind; elsewhere there is a hidden one beside the
    folder. A folder on a file system without locks stays unlocked. Raises DalleError if another
    command holds the lock.
    """
    with _locked_file(folder) if fcntl is None else _locked_folder(folder):
        yield


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    opened = _OpenFolder(folder)
    try:
        _lock_descriptor(opened.descriptor, folder)
        yield
    finally:
        opened.close()


class _OpenFolder:
    """A folder's descriptor, which workers forked from this process close: they would keep its lock
    after a `kill -9` of this process."""

    def __init__(self, folder: Path) -> None:
        self.descriptor = os.open(folder, os.O_RDONLY)
        register_after_fork(self, _OpenFolder.close)

    def close(self) -> None:
        os.close(self.descriptor)


def _lock_descriptor(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _held(folder) from None
    except OSError:
        pass  # this file system has no locks


@contextmanager
def _locked_file(folder: Path) -> Iterator[None]:
    """Lock a file beside the folder, where folders themselves can't be locked: on Windows."""
    from filelock import FileLock, Timeout

    target = folder.absolute()
    lock = FileLock(target.with_name(f".{target.name}.lock"), blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise _held(folder) from None
    try:
        yield
    finally:
        lock.release()


def _held(folder: Path) -> DalleError:
    hint = "wait until it has finished, or name another folder"
    return DalleError(f"another command is writing to {folder}", hint)


def seal(path: Path) -> Fingerprint:
    """Sync a file to disk and return its size and checksum."""
    sync_to_disk(path)
    return file_fingerprint(path)


def file_fingerprint(path: Path) -> Fingerprint:
    """Return a file's size in bytes and its SHA-256; raises OSError if it is not a regular file."""
    check_regular(path)
    with path.open("rb") as file:
        return {
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def sync_to_disk(path: Path) -> None:
    """Flush a file, or a folder where the system can, from the system's cache to disk."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def remove_on_failure(folder: Path) -> Iterator[None]:
    """Remove a folder if the `with` ends in an exception."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
