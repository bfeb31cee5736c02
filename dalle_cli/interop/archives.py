"""Torch's archives as tensors by name: what torch.save has written since 1.6, and TorchScript (OpenAI's CLIP).

Both are a zip with a pickle, `data.pkl`, and the tensors' numbers in `data/`; nothing else in it is opened. Members are
plain, no two share bytes and no tensors share them beyond the size of the file, so that nothing read is larger than it.
Knows nothing of models and their names.
"""

import functools
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dalle_cli.interop.tensor_pickle import ModuleStub, RefusedError, StorageRecord, TensorPickle, TensorRecord

MAX_PICKLE = 2**24  # bytes; the largest CLIP needs a few hundred kilobytes
MAX_TENSORS = 100_000  # other attributes of modules included
MAX_NAME = 1000
MAX_DIMENSIONS = 32


def read_archive(path: Path) -> dict[str, Tensor]:
    """Read an archive's tensors, of a training checkpoint those of its `state_dict`, named `state_dict.` and so on.

    Tensors may share memory. Raises RefusedError for what it wants run or is too large, ValueError and others for
    damage.
    """
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        top = archive.namelist()[0].partition("/")[0]
        _refuse_bombs(
            [m for m in archive.infolist() if m.filename.startswith((f"{top}/data.pkl", f"{top}/data/"))], size
        )
        tensors = dict(_named_tensors(TensorPickle().run(_read_pickle(archive, top))))
        if sum(_n_bytes(record) for record in tensors.values()) > size:
            raise RefusedError("the tensors in it are larger than it")
        bytes_of = functools.cache(lambda key: bytearray(archive.read(f"{top}/data/{key}")))
        return {name: _view(record, bytes_of(record.storage.key)) for name, record in tensors.items()}


def _refuse_bombs(members: list[zipfile.ZipInfo], size: int) -> None:
    """Hold an archive to the size of its file: torch neither compresses weights nor stores them twice."""
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise RefusedError(f"{member.filename} in it is compressed or encrypted")
    if sum(member.file_size for member in members) > size:
        raise RefusedError("the files in it are larger than it")


def _read_pickle(archive: zipfile.ZipFile, top: str) -> bytes:
    member = archive.getinfo(f"{top}/data.pkl")
    if member.file_size > MAX_PICKLE:
        raise ValueError(f"data.pkl has {member.file_size} bytes, more than {MAX_PICKLE}")
    return archive.read(member)


def _named_tensors(root: Any) -> Iterator[tuple[str, TensorRecord]]:
    """Name tensors as state_dict() does; a module met twice is listed twice, as there.

    Nothing in a script sets buffers that are not persistent, and other tensor attributes, apart: they are listed too.
    """
    pending, n_seen = [_state(root)], 0
    while pending:
        prefix, attributes = pending.pop()
        for attribute, value in attributes.items():
            name, n_seen = prefix + attribute, n_seen + 1
            if len(name) > MAX_NAME or n_seen > MAX_TENSORS:
                raise ValueError("its modules are nested without end")
            if isinstance(value, ModuleStub):
                pending.append((f"{name}.", value.attributes))
            elif isinstance(value, TensorRecord):
                yield name, value


def _state(root: Any) -> tuple[str, dict[str, Any]]:
    """Find where the names begin: in a module, a dict of tensors, or a training checkpoint's."""
    if isinstance(root, ModuleStub):
        return "", root.attributes
    if not isinstance(root, dict):
        return "", {}
    inner = root.get("state_dict")
    return ("state_dict.", inner) if isinstance(inner, dict) else ("", root)


def _n_bytes(record: TensorRecord) -> int:
    """Count the bytes of a tensor's numbers, once it is certain that it is described by numbers."""
    storage, offset, size, stride = record
    if not (isinstance(storage, StorageRecord) and type(size) is type(stride) is tuple):
        raise ValueError("a tensor is described by something else than a storage and numbers")
    if not len(size) == len(stride) <= MAX_DIMENSIONS:
        raise ValueError(f"a tensor has {len(size)} sizes and {len(stride)} strides")
    if not all(isinstance(number, int) and number >= 0 for number in (offset, *size, *stride)):
        raise ValueError("a tensor has sizes or strides that are no numbers or negative")
    return math.prod(size) * storage.dtype.itemsize


def _view(record: TensorRecord, content: bytearray) -> Tensor:
    """View a storage as a tensor, once it is certain that each number lies inside and none is promised twice."""
    storage, offset, size, stride = record
    flat = torch.frombuffer(content, dtype=storage.dtype) if content else torch.empty(0, dtype=storage.dtype)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if math.prod(size) > len(flat) or (0 not in size and last >= len(flat)):
        raise ValueError(f"a tensor reaches beyond the {len(flat)} numbers of its storage")
    return flat.as_strided(size, stride, offset)
