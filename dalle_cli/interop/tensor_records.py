"""Creating tensors by name from their descriptions in a torch pickle, checked against the file.

Together, the tensors are no larger than the file, even where they share bytes, so that nothing made
from them is either. Knows nothing of containers, models and their names.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from dalle_cli.interop.tensor_pickle import ModuleStub, RefusedError, StorageRecord, TensorRecord

MAX_PICKLE = 2**24  # bytes; the largest CLIP needs a few hundred kilobytes
MAX_TENSORS = 100_000  # including other attributes of modules
MAX_NAME = 1000
MAX_DIMENSIONS = 32
REGISTERS = ("_parameters", "_buffers", "_modules")  # where a module stores these attributes


def tensors_of(
    root: Any, size: int, *, read_storage: Callable[[str], bytearray]
) -> dict[str, Tensor]:
    """Create the tensors below the result of a pickle; those of one storage share memory.

    size          of the file in bytes
    read_storage  returns the bytes of a storage by its key

    Raises RefusedError if the tensors are larger than the file, ValueError for damage.
    """
    tensors = dict(_named_tensors(root))
    if sum(_n_bytes(record) for record in tensors.values()) > size:
        raise RefusedError("the tensors in it are larger than the file")
    bytes_of = functools.cache(read_storage)
    return {name: _view(record, bytes_of(record.storage.key)) for name, record in tensors.items()}


def _named_tensors(root: Any) -> Iterator[tuple[str, TensorRecord]]:
    """Yield tensors with their names in state_dict().

    As there, a module that occurs twice is listed twice. Non-persistent buffers and other tensor
    attributes are listed too.
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
    """Return the prefix and the items with which names begin.

    They are those of a module, of a dict of tensors, or of the state_dict in a training checkpoint.
    """
    if isinstance(root, ModuleStub):
        return "", _members(root)
    if not isinstance(root, dict):
        return "", ()
    inner = root.get("state_dict")
    return ("state_dict.", inner.items()) if isinstance(inner, dict) else ("", root.items())


def _members(module: ModuleStub) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of a module, with the content of its registers in their place.

    Nothing is copied, as nothing has been counted yet.
    """
    for name, value in module.attributes.items():
        if name in REGISTERS and isinstance(value, dict):
            yield from value.items()
        else:
            yield name, value


def _n_bytes(record: TensorRecord) -> int:
    """Compute the size of a tensor in bytes, after checking that its description is numbers."""
    storage, offset, size, stride = record
    if not (isinstance(storage, StorageRecord) and type(size) is type(stride) is tuple):
        raise ValueError("a tensor's description is not a storage and numbers")
    if not len(size) == len(stride) <= MAX_DIMENSIONS:
        raise ValueError(f"a tensor has {len(size)} sizes and {len(stride)} strides")
    if not all(isinstance(number, int) and number >= 0 for number in (offset, *size, *stride)):
        raise ValueError("a tensor has sizes or strides that are not numbers, or are negative")
    return math.prod(size) * storage.dtype.itemsize


def _view(record: TensorRecord, content: bytearray) -> Tensor:
    """View a storage as a tensor, after checking that it has no more elements, all inside."""
    storage, offset, size, stride = record
    dtype = storage.dtype
    flat = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)

    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if math.prod(size) > len(flat) or (0 not in size and last >= len(flat)):
        raise ValueError(f"a tensor extends beyond the {len(flat)} elements of its storage")
    return flat.as_strided(size, stride, offset)
