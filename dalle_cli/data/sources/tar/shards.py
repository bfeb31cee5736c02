"""Tar shards of pictures, captions and other files, as webdataset and img2dataset write them.

Shards are uncompressed. Each is indexed once; afterwards a sample is two reads at known offsets,
from any process. Nothing is ever extracted, and member names are opaque keys: `../x` is a name like
any other. Members pair up within their shard, in any order. Keys leave out the shard's name, so the
same key in two shards makes two samples. The captions of a shard without any are taken from the
parquet file beside it.
"""

import posixpath
from collections import Counter
from dataclasses import replace
from typing import BinaryIO

import numpy as np

from dalle_cli.data.images import BadSample, Problem
from dalle_cli.data.sources.captions import (
    EMPTY_CAPTION,
    NO_CAPTION,
    captions_or_fault,
    clean_captions,
    parse_captions,
    parse_json_captions,
)
from dalle_cli.data.sources.columns import Columns
from dalle_cli.data.sources.pairing import describe_captions
from dalle_cli.data.sources.source import Sample, fingerprint_of
from dalle_cli.data.sources.tabular.row_groups import captions_beside
from dalle_cli.data.sources.tar.index_cache import read_indexes
from dalle_cli.data.sources.tar.shard_index import ShardIndex, join_indexes
from dalle_cli.errors import DalleError, printable


class ShardSource:
    """Source over the members of tar shards, shard after shard, in the order they were written."""

    def __init__(
        self, name: str, paths: list[str], *, columns: Columns, captions_required: bool
    ) -> None:
        self.name = name
        self.problems: list[Problem] = []
        self._paths = paths
        self._columns = columns
        self._captions_required = captions_required
        self._beside: dict[int, str] = {}  # captions of samples, from parquet files

        indexes: list[ShardIndex] = []
        n_samples = 0
        for path, index in zip(paths, read_indexes(paths), strict=True):
            indexes.append(self._usable(path, index, n_samples))
            n_samples += len(indexes[-1].places)

        counts: Counter[str] = Counter()
        for index in indexes:
            counts.update(index.unread)
        self.unread = dict(counts.most_common())
        self.n_lost = sum(index.n_lost for index in indexes) + _lost_with_shards(indexes)
        self.form = self._describe({end for index in indexes for end in index.caption_suffixes})
        self._ends = np.cumsum([len(index.places) for index in indexes])
        self._index = join_indexes(indexes)

    def __len__(self) -> int:
        return len(self._index.places)

    def key(self, index: int) -> str:
        return self._index.key(index)

    def read(self, index: int) -> Sample:
        place = self._index.place(index)
        # Opened anew each time, so that processes share no file position
        with open(self._path(index), "rb") as file:
            picture = _read(file, place.offset, place.size)
            captions, fault = self._captions_or_fault(file, index)
        return Sample(self.key(index), picture, captions=captions, caption_fault=fault)

    def captions(self, index: int) -> list[str]:
        with open(self._path(index), "rb") as file:
            return self._captions_or_fault(file, index)[0]

    def fingerprint(self) -> str:
        sizes = self._index.places["size"].tolist(), self._index.caption_sizes().tolist()
        return fingerprint_of(zip(self._index.iterate_keys(), *sizes, strict=True))

    def _path(self, index: int) -> str:
        return self._paths[int(np.searchsorted(self._ends, index, side="right"))]

    def _captions_or_fault(self, file: BinaryIO, index: int) -> tuple[list[str], str]:
        return captions_or_fault(
            lambda: self._parse_captions(file, index), required=self._captions_required
        )

    def _parse_captions(self, file: BinaryIO, index: int) -> list[str]:
        if index in self._beside:
            captions = clean_captions([self._beside[index]])
            if not captions:
                raise BadSample(EMPTY_CAPTION)
            return captions

        place = self._index.place(index)
        spans = self._index.captions[place.first_caption : place.end_caption].tolist()
        if not spans:
            raise BadSample(NO_CAPTION)
        if place.is_json:
            return parse_json_captions(_read(file, *spans[0]), self._columns)
        return [caption for span in spans for caption in parse_captions(_read(file, *span))]

    def _describe(self, suffixes: set[str]) -> str:
        kind = "tar shard" if len(self._paths) == 1 else f"{len(self._paths):,} tar shards"
        if self._beside:
            return f"{kind} with captions from parquet files beside them"
        return f"{kind} of pictures {describe_captions(suffixes)}"

    def _usable(self, path: str, index: ShardIndex, n_before: int) -> ShardIndex:
        """Return the usable part of a shard's index; note its problems and captions beside it.

        n_before  number of usable samples in the shards before
        """
        has_caption = index.places["end_caption"] > index.places["first_caption"]  # [N]
        beside = {} if index.caption_suffixes else self._captions_beside(path)
        names = [posixpath.basename(key) for key in index.iterate_keys()] if beside else []
        if beside:
            has_caption = np.array([name in beside for name in names], bool)
        is_usable = has_caption if self._captions_required else np.ones_like(has_caption)

        captionless = [(index.picture(i), NO_CAPTION) for i in np.flatnonzero(~is_usable).tolist()]
        self.problems += [
            (printable(f"{path}:{name}" if name else path), reason)
            for name, reason in index.problems + captionless
        ]
        used = np.flatnonzero(is_usable)
        self._beside |= {
            number: caption
            for number, i in enumerate(used if beside else (), n_before)
            if (caption := beside.get(names[i]))
        }
        return index if not captionless else replace(index, places=index.places[used])

    def _captions_beside(self, path: str) -> dict[str, str]:
        try:
            return captions_beside(path)
        except DalleError:
            if self._captions_required:
                raise
            return {}


def _lost_with_shards(indexes: list[ShardIndex]) -> int:
    """Estimate how many samples damaged shards lost: what whole shards hold, at least one."""
    n_samples = np.array([len(index.places) for index in indexes])
    is_damaged = np.array([index.is_damaged for index in indexes])
    usual = 0 if is_damaged.all() else n_samples[~is_damaged].mean()
    return int(np.maximum(usual - n_samples[is_damaged], 1).round().sum())


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    content = file.read(size)
    if len(content) != size:
        raise OSError(f"{printable(file.name)} has become shorter since it was indexed")
    return content
