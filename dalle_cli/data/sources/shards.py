"""Tar shards as webdataset and img2dataset write them: pictures, captions and files of no concern, uncompressed.

Headers are scanned once; afterwards a sample is two reads at known offsets. Nothing is ever extracted, and member
names are opaque keys: `../x` is a name like any other. Members pair up within their shard, in any order. Keys leave
out the shard's name, so the same key in two shards makes two samples.
"""

import glob
import os
import re
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from dalle_cli.data.sources.captions import parse_captions, printable
from dalle_cli.data.sources.folder import is_tar
from dalle_cli.data.sources.pairing import pair_up, split_name
from dalle_cli.data.sources.source import Problem, Sample, fingerprint_of
from dalle_cli.errors import DalleError

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class Span(NamedTuple):
    """Where the content of a member lies in its shard, in bytes."""

    offset: int
    size: int


_NO_SPAN = Span(-1, 0)


class ShardSource:
    """Pairs of members, shard after shard, in the order in which they were written."""

    def __init__(self, name: str, paths: list[str], captions_required: bool) -> None:
        self.name = name
        self.problems: list[Problem] = []
        self._paths = paths
        self._captions_required = captions_required
        self._keys: list[str] = []
        places = [self._index(shard, path) for shard, path in enumerate(paths)]
        self._places = np.concatenate([np.empty((0, 5), np.int64), *places])  # shard, picture's span, caption's span

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, index: int) -> str:
        return self._keys[index]

    def read(self, index: int) -> Sample:
        shard, *span, _, _ = self._places[index].tolist()
        with open(self._paths[shard], "rb") as file:
            image = _read_span(file, Span(*span))
        return Sample(self.key(index), image, self.captions(index))

    def captions(self, index: int) -> list[str]:
        shard, _, _, *span = self._places[index].tolist()
        if Span(*span) == _NO_SPAN:
            return []
        with open(self._paths[shard], "rb") as file:
            return parse_captions(_read_span(file, Span(*span)), self._captions_required)

    def fingerprint(self) -> str:
        sizes = self._places[:, [2, 4]].tolist()
        return fingerprint_of((key, *pair) for key, pair in zip(self._keys, sizes, strict=True))

    def _index(self, shard: int, path: str) -> np.ndarray:
        spans, problems = scan_shard(path)
        pairs, unpaired = pair_up(self._names(spans), self._captions_required)
        first = {name: span for name, span in reversed(spans)}
        self._keys += [pair.key for pair in pairs]
        self.problems += [(printable(path), reason) for reason in problems]
        return np.array([])
