"""Safetensors files, written: as any other file, with a checksum of their own, or sealed."""

import stat
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from dalle_cli.storage.atomic import Fingerprint, seal
from dalle_cli.storage.integrity.checksums import KEY, ZEROS, fill_in_checksum


def write_tensors(
    file: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file with the permissions of any other new file.

    metadata  texts by name, for the file's header

    The library would make it unreadable to other users. The umask, which can't be read without
    changing it for all threads, is taken from an empty file.
    """
    file.unlink(missing_ok=True)
    file.touch()
    permissions = stat.S_IMODE(file.stat().st_mode)
    save_file(tensors, file, metadata)
    file.chmod(permissions)


def write_checksummed_tensors(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file that carries its checksum, see `check_checksum`."""
    write_tensors(file, tensors, {KEY: ZEROS})
    fill_in_checksum(file)


def write_sealed(file: Path, tensors: dict[str, Tensor]) -> Fingerprint:
    """Write tensors to a safetensors file, sync it to disk and return its size and checksum."""
    write_tensors(file, tensors)
    return seal(file)
