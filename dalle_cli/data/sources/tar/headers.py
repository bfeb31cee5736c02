"""Which members a tar shard holds, and where their contents are, from its headers alone.

Nothing is ever extracted. Shards as webdataset, img2dataset and `tar` write them are walked header
by header, which takes a few microseconds for each; whatever else a file holds, damage included, is
left to Python's `tarfile`, which knows every variety.
"""

import errno
import os
import tarfile
from typing import BinaryIO

import numpy as np

from dalle_cli.data.images import Problem
from dalle_cli.data.sources.file_names import split_name
from dalle_cli.data.sources.pairing import NOT_REGULAR

Span = tuple[int, int]  # offset and size of a member's content in its shard, in bytes

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

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(_BLOCK)
# Kinds of members, as numbers: the byte at 156 of a header
_REGULAR = b"0\0"
_WITHOUT_CONTENT = b"123456"  # links, devices, folders and pipes
_GNU_NAME, _POSIX_HEADER = _EXTENDING = b"Lx"  # these are about the member that follows
_POWERS_OF_8 = 8 ** np.arange(5, -1, -1)


class _Unusual(Exception):
    """A shard holds something that only `tarfile` can judge."""


def scan_shard(path: str) -> tuple[list[tuple[str, Span]], list[Problem]]:
    """List the complete regular members of a shard, and its problems.

    A problem is a member's name, or "" for the whole shard, and the reason.
    """
    length = os.path.getsize(path)
    if not length:
        return [], [("", "empty file")]
    try:
        with open(path, "rb") as file:
            members, others = _walk(file, length)
    except (_Unusual, ValueError, LookupError, MemoryError):
        return _scan_with_tarfile(path, length)
    return members, _describe(members, others, is_whole=True)


def _describe(
    members: list[tuple[str, Span]], others: list[str], *, is_whole: bool
) -> list[Problem]:
    """Return what is wrong with a shard that has these members, and others that are no files."""
    problems = [(name, NOT_REGULAR) for name in others if split_name(name)[1]]
    if not is_whole:
        problems.append(("", _CUT_OR_DAMAGED.format(len(members))))
    elif not members:
        problems.append(("", NO_MEMBERS))
    return problems


def _walk(file: BinaryIO, length: int) -> tuple[list[tuple[str, Span]], list[str]]:
    """List the regular members and the names of others, header after header.

    Raises _Unusual, ValueError or LookupError for anything that is not plainly right.
    """
    headers: list[bytes] = []
    spans: list[Span] = []
    extra: list[bytes] = []  # headers of members that only name the next one
    long_names: dict[int, bytes] = {}
    offset = 0

    while True:
        file.seek(offset)
        header = file.read(_BLOCK)
        if header == _END:
            break
        kind = header[156]
        size = 0 if kind in _WITHOUT_CONTENT else int(header[124:135], 8)
        offset += _BLOCK
        if not 0 <= size <= length - offset or (size and header[135] not in b"\0 "):
            raise _Unusual

        if kind in _EXTENDING:
            extra.append(header)
            name = _long_name(kind, file.read(size))
            if name is not None:
                long_names[len(headers)] = name
        else:
            headers.append(header)
            spans.append((offset, size))
        offset += size + -size % _BLOCK

    _check_sums(headers + extra)
    names = _names(headers, long_names)
    others = [
        name for name, header in zip(names, headers, strict=True) if header[156] not in _REGULAR
    ]
    if not others:
        return list(zip(names, spans, strict=True)), []
    members = [
        (name, span)
        for name, span, header in zip(names, spans, headers, strict=True)
        if header[156] in _REGULAR
    ]
    return members, others


def _long_name(kind: int, content: bytes) -> bytes | None:
    """Return the name of the next member, if that is what a member states by its content.

    Raises _Unusual if it states anything else that concerns names or contents.
    """
    if kind == _GNU_NAME:
        return content.partition(b"\0")[0]

    path = None
    start = 0
    while start < len(content):
        digits = content[start : start + 20].partition(b" ")[0]
        end = start + int(digits)
        key, equals, value = content[start + len(digits) + 1 : end - 1].partition(b"=")
        if not equals or content[end - 1 : end] != b"\n":
            raise _Unusual
        if key == b"path":
            path = value
        elif key == b"size" or key.startswith(b"GNU.sparse"):
            raise _Unusual
        start = end
    return path


def _names(headers: list[bytes], long_names: dict[int, bytes]) -> list[str]:
    """Return the names of members as tarfile spells them, without `./` before."""
    names = []
    for number, header in enumerate(headers):
        name = long_names.get(number) or header[:100].rstrip(b"\0")
        if header[345] and number not in long_names:
            name = header[345:500].rstrip(b"\0") + b"/" + name
        if header[156] not in _REGULAR:
            name = name.rstrip(b"/")
        names.append(name)

    kinds = {header[156] for header in headers}
    joined = b"\n".join(names)
    if b"\0" in joined or b"/\n" in joined + b"\n" or not kinds <= {*_REGULAR, *_WITHOUT_CONTENT}:
        raise _Unusual
    return [name.decode("utf-8", "surrogateescape").removeprefix("./") for name in names]


def _check_sums(headers: list[bytes]) -> None:
    """Raise _Unusual if the checksum of a header is wrong or oddly written."""
    blocks = np.frombuffer(b"".join(headers), np.uint8).reshape(-1, _BLOCK)  # [N, 512]
    digits = blocks[:, 148:154] - np.uint8(ord("0"))  # [N, 6], above 7 for anything else
    sums = blocks.sum(1, dtype=np.int64) - blocks[:, 148:156].sum(1, dtype=np.int64)
    stated = digits @ _POWERS_OF_8
    if (digits > 7).any() or blocks[:, 154].any() or (sums + 8 * ord(" ") != stated).any():
        raise _Unusual


def _scan_with_tarfile(path: str, length: int) -> tuple[list[tuple[str, Span]], list[Problem]]:
    try:
        tar = tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    except _TAR_ERRORS:
        return [], [("", "not a tar file, or a compressed one")]

    members: list[tuple[str, Span]] = []
    others: list[str] = []
    with tar:
        try:
            for header in tar:
                if not _is_within(header, length):
                    raise tarfile.ReadError(f"{header.name} does not fit")
                name = header.name.removeprefix("./")
                if header.isreg() and not header.issparse():
                    members.append((name, (header.offset_data, header.size)))
                else:
                    others.append(name)
            is_whole = _is_at_end_marker(tar)
        except _TAR_ERRORS:
            is_whole = False
        except OSError as error:
            if error.errno != errno.EINVAL:  # seeking to the impossible offset that a header claims
                raise
            is_whole = False
    return members, _describe(members, others, is_whole=is_whole)


def _is_within(header: tarfile.TarInfo, length: int) -> bool:
    has_content = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES
    return header.size >= 0 and not (has_content and header.size > length - header.offset_data)


def _is_at_end_marker(tar: tarfile.TarFile) -> bool:
    """Return whether the scan stopped at the zeros that end an archive.

    At damage, tarfile stops just as silently.
    """
    tar.fileobj.seek(tar.offset)
    return tar.fileobj.read(_BLOCK) == _END
