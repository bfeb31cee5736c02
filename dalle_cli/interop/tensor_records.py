"""From what a pickle of torch's describes to tensors by name, once it is certain that the file holds them.

No tensors share bytes beyond the size of the file, so that nothing made of one is larger than it. Knows nothing of
containers, models and their names.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from dalle_cli.interop.tensor_pickle import ModuleStub, RefusedError, StorageRecord, TensorRecord

MAX_PICKLE = 2**24  # bytes; the largest CLIP needs a few hundred kilobytes
MAX_TENSORS = 100_000  # other attributes of modules included
MAX_NAME = 1000
MAX_DIMENSIONS = 32
REGISTERS = (
    "_parameters",
    "_buffers",
    "_modules",
)  # where a module has what is called its attributes


def tensors_of(root: Any, size: int, read_storage: Callable[[str], bytearray]) -> dict[str, Tensor]:
    """Make the tensors below what a pickle has come to, in a file of so many bytes; those of one storage share memory.

    Raises RefusedError where they are larger than the file, ValueError for damage.
    """
    tensors = dict(_named_tensors(root))
    if sum(_n_bytes(record) for record in tensors.values()) > size:
        raise RefusedError("the tensors in it are larger than it")
    bytes_of = functools.cache(read_storage)
    return {name: _view(record, bytes_of(record.storage.key)) for name, record in tensors.items()}


def _named_tensors(root: Any) -> Iterator[tuple[str, TensorRecord]]:
    """Name tensors as state_dict() does; a module met twice is listed twice, as there.

    Buffers that are not persistent, and other tensor attributes, are not set apart: they are listed too.
    """
    pending, n_seen = [_state(root)], 0
    while pending:
        prefix, attributes = pending.pop()
        for attribute, value in attributes:
            name, n_seen = prefix + attribute, n_seen + 1
            if len(name) > MAX_NAME or n_seen > MAX_TENSORS:
                raise ValueError("its modules are nested without end")
            if isinstance(value, ModuleStub):
                pending.append((f"{name}.", _members(value)))
            elif isinstance(value, TensorRecord):
                yield name, value


def _state(root: Any) -> tuple[str, Iterable[tuple[str, Any]]]:
    """Find where the names begin: in a module, a dict of tensors, or a training checkpoint's."""
    if isinstance(root, ModuleStub):
        return "", _members(root)
    if not isinstance(root, dict):
        return "", ()
    inner = root.get("state_dict")
    return ("state_dict.", inner.items()) if isinstance(inner, dict) else ("", root.items())


def _members(module: ModuleStub) -> Iterator[tuple[str, Any]]:
    """List a module's attributes, in the place of a register what it holds; uncopied, as they are not counted yet."""
    for name, value in module.attributes.items():
        if name in REGISTERS and isinstance(value, dict):
            yield from value.items()
        else:
            yield name, value


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
    flat = (
        torch.frombuffer(content, dtype=storage.dtype)
        if content
        else torch.empty(0, dtype=storage.dtype)
    )
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if math.prod(size) > len(flat) or (0 not in size and last >= len(flat)):
        raise ValueError(f"a tensor reaches beyond the {len(flat)} numbers of its storage")
    return flat.as_strided(size, stride, offset)
