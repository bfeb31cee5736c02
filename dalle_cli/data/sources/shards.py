"""Tar shards of pictures, captions and other files, as webdataset and img2dataset write them.

Shards are uncompressed. Headers are scanned once; afterwards a sample is two reads at known
offsets. Nothing is ever extracted, and member names are opaque keys: `../x` is a name like any
other. Members pair up within their shard, in any order. Keys leave out the shard's name, so the
same key in two shards makes two samples. The captions of a shard without any are taken from the
parquet file beside it.
"""

import errno
import os
import posixpath
import tarfile
from collections import Counter
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
from dalle_cli.data.sources.file_names import JSON_SUFFIX, count_unread, split_name
from dalle_cli.data.sources.pairing import (
    NOT_REGULAR,
    Pair,
    caption_suffixes,
    count_lost,
    describe_captions,
    pair_up,
)
from dalle_cli.data.sources.source import Sample, fingerprint_of
from dalle_cli.data.sources.tabular.row_groups import captions_beside
from dalle_cli.errors import DalleError, printable

Span = tuple[int, int]  # offset and size of a member's content in its shard, in bytes

_NO_SPAN = (-1, 0)
NO_MEMBERS = "no members"
_CUT_OR_DAMAGED = "cut short or damaged after {} members, the rest is lost"
# What tarfile raises on hostile headers, besides its own errors
_TAR_ERRORS = (
    tarfile.TarError,
    ValueError,
    LookupError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)


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
        self._keys: list[str] = []
        self._beside: dict[int, str] = {}  # captions of samples, from parquet files
        self._more: dict[int, list[Span]] = {}  # further captions of samples, which few have
        self._suffixes: set[str] = set()  # of caption files
        self._damaged: list[int] = []  # the numbers of shards of which a part or all is lost
        self.n_lost = 0  # of members at first
        counts: Counter[str] = Counter()

        # int64 [N, 6]: number of the shard, span of the picture, span of the captions, JSON or not
        self._spans = np.concatenate([self._index(shard, counts) for shard in range(len(paths))])
        self.form = self._describe()
        self.unread = dict(counts.most_common())
        self.n_lost += self._lost_with_shards()

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, index: int) -> str:
        return self._keys[index]

    def read(self, index: int) -> Sample:
        shard, offset, size, *_ = self._spans[index].tolist()
        # Opened anew each time, so that processes share no file position
        with open(self._paths[shard], "rb") as file:
            picture = _read(file, offset, size)
            captions, fault = self._captions_or_fault(file, index)
        return Sample(self.key(index), picture, captions=captions, caption_fault=fault)

    def captions(self, index: int) -> list[str]:
        with open(self._paths[self._spans[index, 0]], "rb") as file:
            return self._captions_or_fault(file, index)[0]

    def fingerprint(self) -> str:
        sizes = self._spans[:, [2, 4]].tolist()
        return fingerprint_of((key, *pair) for key, pair in zip(self._keys, sizes, strict=True))

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
        *_, offset, size, is_json = self._spans[index].tolist()
        if offset < 0:
            raise BadSample(NO_CAPTION)
        if is_json:
            return parse_json_captions(_read(file, offset, size), self._columns)
        spans = [(offset, size), *self._more.get(index, [])]
        return [caption for span in spans for caption in parse_captions(_read(file, *span))]

    def _describe(self) -> str:
        kind = "tar shard" if len(self._paths) == 1 else f"{len(self._paths):,} tar shards"
        if self._beside:
            return f"{kind} with captions from parquet files beside them"
        return f"{kind} of pictures {describe_captions(self._suffixes)}"

    def _lost_with_shards(self) -> int:
        """Estimate how many samples damaged shards lost: what whole shards hold, at least one."""
        n_samples = np.bincount(self._spans[:, 0], minlength=len(self._paths))
        is_whole = np.ones(len(self._paths), bool)
        is_whole[self._damaged] = False
        usual = n_samples[is_whole].mean() if is_whole.any() else 0
        return int(np.maximum(usual - n_samples[self._damaged], 1).round().sum())

    def _index(self, shard: int, counts: Counter[str]) -> np.ndarray:
        """Index a shard and count its unread files; returns the rows of `_spans`."""
        path = self._paths[shard]
        members, problems = scan_shard(path)
        names = [name for name, _ in members]
        pairs, unpaired = pair_up(names, captions_required=False)
        keys = {key for pair in pairs for key in (pair.key, pair.picture)}
        counts.update(count_unread(names, keys))
        pairs, captionless = self._find_captions(path, pairs)

        # Reversed, so that the first of equal names counts
        spans = dict(reversed(members))
        rows = []
        for index, pair in enumerate(pairs, len(self._keys)):
            caption, *more = [spans[name] for name in pair.captions] or [_NO_SPAN]
            rows.append((shard, *spans[pair.picture], *caption, _is_json(pair)))
            if more:
                self._more[index] = more

        self._keys += [pair.key for pair in pairs]
        self.n_lost += count_lost(problems + unpaired)
        if any(not name and reason != NO_MEMBERS for name, reason in problems):
            self._damaged.append(shard)
        self.problems += [
            (printable(f"{path}:{name}" if name else path), reason)
            for name, reason in problems + unpaired + captionless
        ]
        return np.array(rows, np.int64).reshape(-1, 6)

    def _find_captions(self, path: str, pairs: list[Pair]) -> tuple[list[Pair], list[Problem]]:
        """Note where the captions of a shard are; return the usable samples, and the problems."""
        suffixes = caption_suffixes(pairs)
        self._suffixes |= suffixes
        beside = {} if suffixes else self._captions_beside(path)

        has_caption = [pair.captions or posixpath.basename(pair.key) in beside for pair in pairs]
        usable = [
            pair
            for pair, is_captioned in zip(pairs, has_caption, strict=True)
            if is_captioned or not self._captions_required
        ]
        captionless = [
            (pair.picture, NO_CAPTION)
            for pair, is_captioned in zip(pairs, has_caption, strict=True)
            if self._captions_required and not is_captioned
        ]

        for index, pair in enumerate(usable, len(self._keys)):
            if caption := beside.get(posixpath.basename(pair.key)):
                self._beside[index] = caption
        return usable, captionless

    def _captions_beside(self, path: str) -> dict[str, str]:
        try:
            return captions_beside(path)
        except DalleError:
            if self._captions_required:
                raise
            return {}


def _is_json(pair: Pair) -> bool:
    return any(caption.lower().endswith(JSON_SUFFIX) for caption in pair.captions)


def scan_shard(path: str) -> tuple[list[tuple[str, Span]], list[Problem]]:
    """List the complete regular members of a shard, and its problems.

    A problem is a member's name, or "" for the whole shard, and the reason.
    """
    length = os.path.getsize(path)
    if not length:
        return [], [("", "empty file")]
    try:
        tar = tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    except _TAR_ERRORS:
        return [], [("", "not a tar file, or a compressed one")]
    with tar:
        return _scan(tar, length)


def _scan(tar: tarfile.TarFile, length: int) -> tuple[list[tuple[str, Span]], list[Problem]]:
    members: list[tuple[str, Span]] = []
    problems: list[Problem] = []

    try:
        for header in tar:
            if not _is_within(header, length):
                raise tarfile.ReadError(f"{header.name} does not fit")
            name = header.name.removeprefix("./")
            if header.isreg() and not header.issparse():
                members.append((name, (header.offset_data, header.size)))
            elif split_name(name)[1]:
                problems.append((name, NOT_REGULAR))
        is_whole = _is_at_end_marker(tar)
    except _TAR_ERRORS:
        is_whole = False
    except OSError as error:
        if error.errno != errno.EINVAL:  # seeking to the impossible offset that a header claims
            raise
        is_whole = False

    if not is_whole:
        problems.append(("", _CUT_OR_DAMAGED.format(len(members))))
    elif not members:
        problems.append(("", NO_MEMBERS))
    return members, problems


def _is_within(header: tarfile.TarInfo, length: int) -> bool:
    has_content = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES
    return header.size >= 0 and not (has_content and header.size > length - header.offset_data)


def _is_at_end_marker(tar: tarfile.TarFile) -> bool:
    """Return whether the scan stopped at the zeros that end an archive.

    At damage, tarfile stops just as silently.
    """
    tar.fileobj.seek(tar.offset)
    return tar.fileobj.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    content = file.read(size)
    if len(content) != size:
        raise OSError(f"{printable(file.name)} has become shorter since it was indexed")
    return content
