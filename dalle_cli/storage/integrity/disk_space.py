"""A write that failed as a message: the file that was to be written, the bytes needed and free.

Libraries raise a full disk without the name of a file, or with that of the one that is copied.
"""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from dalle_cli.errors import DalleError, printable
from dalle_cli.quantities import size_text

FULL = (errno.ENOSPC, errno.EDQUOT)
BLOCK = 4096  # bytes; what most file systems take for even a small file


class DiskFullError(DalleError):
    """A disk is too full for a file.

    path    the file that was to be written
    needed  bytes; 0 where they are not known
    """

    def __init__(self, path: Path, needed: int, *, what: str = "it needs", hint: str = "") -> None:
        self.path = path
        self.needed = needed
        whole = -(-needed // BLOCK) * BLOCK
        sizes = f"{size_text(free_disk(path))} are free"
        if needed:
            sizes = f"{what} {size_text(whole)}, and {sizes}"
        message = f"cannot write {printable(str(path))}: No space left on device"
        super().__init__(message, f"{sizes}; {hint}" if hint else sizes)


@contextmanager
def explain_disk_failure(path: Path, needed: int = 0, *, hint: str = "") -> Iterator[None]:
    """Convert a failed write of a file or folder into a DalleError that names it.

    needed  bytes that are to be written, which a full disk's error states with those free; 0 where
            they are not known
    hint    what a user can be sure of
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if is_of_a_full_disk(error):
            raise DiskFullError(path, needed, hint=hint) from error
        reason = error.strerror if isinstance(error, OSError) else str(error)
        message = f"cannot write {printable(str(path))}: {reason or error}"
        raise DalleError(message, hint) from error


def is_of_a_full_disk(error: OSError | SafetensorError) -> bool:
    """Return whether an error says that a disk is full, or a quota used up."""
    if isinstance(error, OSError):
        return error.errno in FULL
    return any(f"os error {number}" in str(error) for number in FULL)


def free_disk(path: Path) -> int:
    """Return the free bytes of the disk that a path is on; the path itself need not exist."""
    target = path.absolute()
    nearest = next(folder for folder in (target, *target.parents) if folder.exists())
    return shutil.disk_usage(nearest).free


def used_disk(folder: Path) -> int:
    """Return the bytes that the files of a folder take on the disk."""
    files = (path.stat() for path in folder.rglob("*") if path.is_file())
    return sum(max(file.st_size, 512 * getattr(file, "st_blocks", 0)) for file in files)
