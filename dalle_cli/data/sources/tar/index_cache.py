"""Indexes of shards, kept in the user's cache folder so that a shard is scanned once.

A file for each shard, named by the shard's path, holds a checksum, a line of JSON and the arrays.
It counts while the shard's size and time of change are those that it states; anything else in its
place, damage included, is written anew. It is a convenience: where it cannot be written, shards are
scanned every time, and nothing is said.
"""

import hashlib
import json
import os
import time
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from dalle_cli.data.sources.tar.shard_index import PLACE, SPAN, ShardIndex, index_shard
from dalle_cli.errors import DalleError
from dalle_cli.runtime.processes.ranks import ranks_of_environment
from dalle_cli.storage.atomic import write_file
from dalle_cli.storage.run_dir import cache_folder

# Raise it when the index of one and the same shard changes
INDEX_VERSION = 1
# A shard that has just changed may change again without its size or time showing it: the clocks of
# file systems are as coarse as this
SETTLED_SECONDS = 2
_FACTS = ("endings", "caption_suffixes", "problems", "unread", "n_lost", "is_damaged")


def read_indexes(paths: list[str]) -> list[ShardIndex]:
    """Return the index of every shard, from the cache or by a scan; raises OSError like a scan.

    Every process of a job begins with other shards, and finds those that others have scanned
    meanwhile in the cache.
    """
    ranks = ranks_of_environment()
    first = len(paths) * ranks.rank // ranks.size
    order = [*range(first, len(paths)), *range(first)]
    folder = cache_folder()
    indexes = {number: _read_index(paths[number], folder) for number in order}
    return [indexes[number] for number in range(len(paths))]


def _read_index(path: str, folder: Path | None) -> ShardIndex:
    if folder is None:
        return index_shard(path)

    status = os.stat(path)
    stamp = [INDEX_VERSION, status.st_size, status.st_mtime_ns]
    name = hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()
    file = folder / "shards" / name[:2] / name[2:32]
    index = _load(file, stamp)
    if index is None:
        index = index_shard(path)
        if abs(time.time() - status.st_mtime) > SETTLED_SECONDS:
            _save(file, index, stamp)
    return index


def _save(file: Path, index: ShardIndex, stamp: list[int]) -> None:
    facts = {name: getattr(index, name) for name in _FACTS}
    sizes = [len(index.places), len(index.captions), len(index.keys)]
    head = json.dumps({"stamp": stamp, "sizes": sizes, **facts}).encode()
    body = b"".join([head, b"\n", index.places.tobytes(), index.captions.tobytes(), index.keys])

    # two processes may write at once, and what one leaves of the other's is known by its sum
    with suppress(OSError, DalleError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, zlib.crc32(body).to_bytes(4) + body)


def _load(file: Path, stamp: list[int]) -> ShardIndex | None:
    """Return the index in a file; None if there is none, or another than for this stamp."""
    try:
        content = file.read_bytes()
        if zlib.crc32(memoryview(content)[4:]) != int.from_bytes(content[:4]):
            return None
        start = content.index(b"\n", 4) + 1
        head = json.loads(content[4:start])
        if head.pop("stamp") != stamp:
            return None

        n_places, n_captions, n_bytes = head.pop("sizes")
        places = np.frombuffer(content, PLACE, n_places, start)
        start += places.nbytes
        captions = np.frombuffer(content, SPAN, 2 * n_captions, start).reshape(-1, 2)  # [M, 2]
        keys = content[start + captions.nbytes :]
        if len(keys) != n_bytes:
            return None
        head["problems"] = [tuple(problem) for problem in head["problems"]]
        return ShardIndex(places, captions, keys, **head)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
