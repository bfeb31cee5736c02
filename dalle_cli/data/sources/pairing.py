"""Pairing pictures with captions by their names alone.

Files of one key belong together; equal file names in different folders never meet. Of two pictures
with one key, the first suffix in `PICTURE_SUFFIXES` wins, and of two caption files the first in
`CAPTION_SUFFIXES`. A picture without a caption of its key takes one of its whole name
(`001.jpg.txt`), or else of its name before the first dot (`001.outputs.txt`, or `001.0.txt` and
`001.1.txt`), if no other picture has that. Hidden files, files `__like_this__` and what systems put
beside people's files are not samples.
"""

import functools
import posixpath
from collections import Counter
from collections.abc import Collection, Iterable
from typing import NamedTuple

from dalle_cli.data.images import Problem
from dalle_cli.data.sources.captions import NO_CAPTION
from dalle_cli.data.sources.file_names import (
    CAPTION_SUFFIXES,
    JSON_SUFFIX,
    PICTURE_SUFFIXES,
    UNSUPPORTED_SUFFIXES,
    split_name,
)

UNSUPPORTED = "unsupported picture format"
UNKNOWN_SUFFIX = "unknown suffix or none, not read"
NOT_REGULAR = "not a regular file"
_NO_SUFFIX = "none"
_PICTURES = (*PICTURE_SUFFIXES, _NO_SUFFIX)


class Pair(NamedTuple):
    """One sample, as the names of its files; a picture has several captions by exception."""

    key: str
    picture: str
    captions: tuple[str, ...]


_Files = dict[str, str]  # names of one key, by suffix


def pair_up(
    names: Collection[str], *, captions_required: bool, pictures: Collection[str] = ()
) -> tuple[list[Pair], list[Problem]]:
    """Pair pictures with captions, in the order in which their keys first appear.

    pictures  those of the names that have no suffix and are pictures by their content

    Also returns the files left over. Names use "/". A name that appears again, or that differs only
    in the case of its suffix, is left over.
    """
    groups, problems = _group(names, pictures)
    lone = {
        key: files[roles.caption]
        for key, files in groups.items()
        if (roles := _roles(*files)).caption and not (roles.pictures or roles.unsupported)
    }
    adopted = _adopt(groups, lone) if lone else {}
    used = {caption for captions in adopted.values() for caption in captions}
    strangers = _strangers(names, lone, pictures) if lone else {}

    pairs = []
    for key, files in groups.items():
        if key not in lone:
            pair, left_over = _pair(key, files, adopted.get(key, ()), is_strict=captions_required)
            pairs += [pair] if pair else []
            problems += left_over
        elif key in strangers and lone[key] not in used:
            problems.append((strangers[key], UNKNOWN_SUFFIX))
        elif lone[key] not in used and list(files) != [JSON_SUFFIX]:  # which may be anything
            problems.append((lone[key], "caption without picture"))
    return pairs, problems


class _Roles(NamedTuple):
    """The suffixes of a key's files by the part that these have, the one that counts first."""

    pictures: tuple[str, ...]
    caption: str  # or ""
    unsupported: tuple[str, ...]


@functools.lru_cache
def _roles(*suffixes: str) -> _Roles:
    captions = [suffix for suffix in CAPTION_SUFFIXES if suffix in suffixes]
    return _Roles(
        pictures=tuple(suffix for suffix in _PICTURES if suffix in suffixes),
        caption=captions[0] if captions else "",
        unsupported=tuple(suffix for suffix in UNSUPPORTED_SUFFIXES if suffix in suffixes),
    )


def count_lost(problems: Iterable[Problem]) -> int:
    """Count the pictures that are left out because they cannot be read."""
    return sum(
        reason in (UNSUPPORTED, UNKNOWN_SUFFIX)
        or (reason == NOT_REGULAR and split_name(name)[1] in PICTURE_SUFFIXES)
        for name, reason in problems
    )


def caption_suffixes(pairs: Iterable[Pair]) -> set[str]:
    """Return the suffixes of the pairs' caption files."""
    endings = {caption.rpartition(".")[2] for pair in pairs for caption in pair.captions}
    return {f".{ending.lower()}" for ending in endings}


def describe_captions(suffixes: set[str]) -> str:
    """Describe in which files captions are."""
    found = [suffix for suffix in CAPTION_SUFFIXES if suffix in suffixes]
    return f"with {' and '.join(found)} captions" if found else "without captions"


def _group(
    names: Iterable[str], pictures: Collection[str]
) -> tuple[dict[str, _Files], list[Problem]]:
    groups: dict[str, _Files] = {}
    problems = []
    for name in names:
        key, suffix = (name, _NO_SUFFIX) if name in pictures else split_name(name)
        if not suffix:
            continue
        files = groups.setdefault(key, {})
        if suffix in files:
            problems.append((name, "duplicate: the first file of this name is used"))
        else:
            files[suffix] = name
    return groups, problems


def _adopt(groups: dict[str, _Files], lone: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Return captions of other keys for pictures without one of their key.

    lone  captions without a picture of their key
    """
    n_pictures = Counter(_stem(key) for key, files in groups.items() if _roles(*files).pictures)
    lone_of_stem: dict[str, list[str]] = {}
    for key, caption in lone.items():
        if not caption.lower().endswith(JSON_SUFFIX):
            lone_of_stem.setdefault(_stem(key), []).append(key)

    adopted: dict[str, tuple[str, ...]] = {}
    for key, files in groups.items():
        roles, stem = _roles(*files), _stem(key)
        if not roles.pictures or roles.caption:
            continue
        picture = files[roles.pictures[0]]
        if picture in lone:
            adopted[key] = (lone[picture],)
        elif n_pictures[stem] == 1:
            keys = _same_or_numbered(lone_of_stem.get(stem, []), stem)
            adopted[key] = tuple(lone[other] for other in keys)
    return adopted


def _stem(key: str) -> str:
    """Return a key up to the first dot of its last part."""
    folder, slash, name = key.rpartition("/")
    return f"{folder}{slash}{name.partition('.')[0]}"


def _same_or_numbered(keys: list[str], stem: str) -> list[str]:
    """Return the only key, or all if they differ in a number alone, in the order of the numbers."""
    if len(keys) < 2:
        return keys
    numbers = {key: key[len(stem) + 1 :] for key in keys}
    if not all(number.isdecimal() for number in numbers.values()):
        return []
    return sorted(keys, key=lambda key: int(numbers[key]))


def _strangers(
    names: Iterable[str], lone: dict[str, str], pictures: Collection[str]
) -> dict[str, str]:
    """Return, for captions without a picture, a file of their key that is not known as one."""
    found = {}
    for name in names:
        key = posixpath.splitext(name)[0]
        if key in lone and not split_name(name)[1] and name not in pictures:
            found[key] = name
    return found


def _pair(
    key: str, files: _Files, adopted: tuple[str, ...], *, is_strict: bool
) -> tuple[Pair | None, list[Problem]]:
    roles = _roles(*files)
    captions = (files[roles.caption],) if roles.caption else adopted
    if not roles.pictures:
        return None, [(files[suffix], UNSUPPORTED) for suffix in roles.unsupported]

    picture = files[roles.pictures[0]]
    left_over = [
        (files[suffix], "another picture of this name is used")
        for suffix in roles.pictures[1:] + roles.unsupported
    ]
    if is_strict and not captions:
        return None, [*left_over, (picture, NO_CAPTION)]
    return Pair(key, picture, captions), left_over
