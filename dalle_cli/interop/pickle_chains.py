"""Reading tensors by name from files that torch.save wrote before its archives.

They are five pickles, then the data. The pickles are a magic number, a version, the machine it was
written on, the object, and the keys of its storages; the storages follow in the order of the keys,
each after its number of elements. The file is walked once before anything is read, to check that it
holds what it declares. Knows nothing of models and their names.
"""

import io
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from dalle_cli.interop.tensor_pickle import TensorPickle
from dalle_cli.interop.tensor_records import MAX_PICKLE, tensors_of

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the first pickle
VERSION = 1001
COUNT = struct.Struct("<q")


def read_pickle_chain(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file, named as those of an archive; raises like `read_archive`."""
    with path.open("rb") as file:
        pickles = io.BytesIO(file.read(MAX_PICKLE))
        pickles.seek(len(MAGIC))

        version, machine = TensorPickle().run(pickles), TensorPickle().run(pickles)
        if version != VERSION or machine.get("little_endian") is not True:
            raise ValueError(
                "it has another version, or comes from a machine of another endianness"
            )

        described = TensorPickle()
        root, keys = described.run(pickles), TensorPickle().run(pickles)
        blocks = _blocks(file, pickles.tell(), keys=keys, storages=described.storages)

        def read_storage(key: str) -> bytearray:
            start, length = blocks[key]
            file.seek(start)
            return bytearray(file.read(length))

        return tensors_of(root, path.stat().st_size, read_storage=read_storage)


def _blocks(
    file: BinaryIO, start: int, *, keys: Any, storages: dict[str, torch.dtype]
) -> dict[str, tuple[int, int]]:
    """Find the offset and length in bytes of each storage, checked to lie inside the file."""
    end = file.seek(0, os.SEEK_END)
    blocks = {}
    for key in keys:
        file.seek(start)
        (count,) = COUNT.unpack(file.read(COUNT.size))
        start, length = start + COUNT.size, count * storages[key].itemsize
        if not 0 <= length <= end - start:
            raise ValueError(f"a storage of {count} elements extends beyond the end of the file")
        blocks[key] = (start, length)
        start += length
    return blocks
