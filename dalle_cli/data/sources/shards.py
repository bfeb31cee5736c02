"""Tar shards as webdataset and img2dataset write them: pictures, captions and files of no concern, uncompressed.

Headers are scanned once; afterwards a sample is two reads at known places. Nothing is ever extracted, and member
names are opaque keys: `../x` is a name like any other. Members pair up within their shard, in any order. Keys leave
out the shard's name, so the same key in two shards makes two samples.
"""

import errno
import os
import tarfile
from typing import BinaryIO

import numpy as np

from dalle_cli.data.sources.captions import parse_captions
from dalle_cli.data.sources.pairing import pair_up, split_name
from dalle_cli.data.sources.source import Problem, Sample, fingerprint_of
from dalle_cli.untrusted import printable

Span = tuple[int, int]  # offset and size of a member's content in its shard, in bytes

_NO_SPAN = (-1, 0)
_CUT_OR_DAMAGED = "cut short or damaged after {} members, the rest is lost"
# what tarfile raises on hostile headers, besides its own errors
_TAR_ERRORS = (
    tarfile.TarError,
    ValueError,
    LookupError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)


class ShardSource:
    """Pairs of members, shard after shard, in the order in which they were written."""

    def __init__(self, name: str, paths: list[str], captions_required: bool) -> None:
        self.name = name
        self.problems: list[Problem] = []
        self._paths = paths
        self._captions_required = captions_required
        self._keys: list[str] = []
        # int64 [N, 5]: number of the shard, span of the picture, span of the captions
        self._places = np.concatenate([self._index(shard) for shard in range(len(paths))])

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, index: int) -> str:
        return self._keys[index]

    def read(self, index: int) -> Sample:
        shard, *place = self._places[index].tolist()
        with open(
            self._paths[shard], "rb"
        ) as file:  # opened anew each time, so that processes share no file position
            return Sample(
                self.key(index), _read(file, *place[:2]), self._read_captions(file, *place[2:])
            )

    def captions(self, index: int) -> list[str]:
        shard, _, _, *span = self._places[index].tolist()
        with open(self._paths[shard], "rb") as file:
            return self._read_captions(file, *span)

    def fingerprint(self) -> str:
        sizes = self._places[:, [2, 4]].tolist()
        return fingerprint_of((key, *pair) for key, pair in zip(self._keys, sizes, strict=True))

    def _read_captions(self, file: BinaryIO, offset: int, size: int) -> list[str]:
        return (
            [] if offset < 0 else parse_captions(_read(file, offset, size), self._captions_required)
        )

    def _index(self, shard: int) -> np.ndarray:
        path = self._paths[shard]
        members, problems = scan_shard(path)
        pairs, unpaired = pair_up([name for name, _ in members], self._captions_required)
        spans: dict[str | None, Span] = {
            None: _NO_SPAN,
            **dict(reversed(members)),
        }  # of equal names the first counts
        places = [(shard, *spans[pair.picture], *spans[pair.caption]) for pair in pairs]
        self._keys += [pair.key for pair in pairs]
        self.problems += [
            (printable(f"{path}:{name}" if name else path), why)
            for name, why in problems + unpaired
        ]
        return np.array(places, np.int64).reshape(-1, 5)


def scan_shard(path: str) -> tuple[list[tuple[str, Span]], list[Problem]]:
    """List the regular members that are wholly there, and what is wrong: (member, or "" for all of it, reason)."""
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
                problems.append((name, "not a regular file"))
        is_whole = _is_end_marker(tar)
    except _TAR_ERRORS:
        is_whole = False
    except OSError as error:
        if error.errno != errno.EINVAL:  # seeking to the impossible place that a header claims
            raise
        is_whole = False
    if not is_whole:
        problems.append(("", _CUT_OR_DAMAGED.format(len(members))))
    elif not members:
        problems.append(("", "no members"))
    return members, problems


def _is_within(header: tarfile.TarInfo, length: int) -> bool:
    has_content = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES
    return header.size >= 0 and not (has_content and header.size > length - header.offset_data)


def _is_end_marker(tar: tarfile.TarFile) -> bool:
    """Tell whether the scan stopped at the zeros that end an archive; tarfile stops silently at damage as well."""
    tar.fileobj.seek(tar.offset)
    return tar.fileobj.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    content = file.read(size)
    if len(content) != size:
        raise OSError(f"{printable(file.name)} has become shorter since it was indexed")
    return content
