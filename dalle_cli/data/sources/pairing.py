"""Pairing pictures with captions by their names alone.

A key is a name without its suffix, including folders (`birds/001` for `birds/001.jpg`), so equal
file names in different folders never meet. Of two pictures with one key, the first suffix in
`PICTURE_SUFFIXES` wins, and of two caption files the first in `CAPTION_SUFFIXES`. Hidden files,
files `__like_this__` and what systems put beside people's files are not samples.
"""

import posixpath
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from dalle_cli.data.images import Problem
from dalle_cli.data.sources.captions import JSON_SUFFIX, NO_CAPTION

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
CAPTION_SUFFIXES = (".txt", ".caption", JSON_SUFFIX)
UNSUPPORTED_SUFFIXES = (
    ".avif",
    ".bmp",
    ".heic",
    ".heif",
    ".jp2",
    ".jxl",
    ".ppm",
    ".svg",
    ".tif",
    ".tiff",
)
# In lower case: thumbnails, recycle bins and the like that systems and file servers make
SYSTEM_NAMES = frozenset(
    {
        "$recycle.bin",
        "system volume information",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "__macosx",
        "lost+found",
        "@eadir",
        "#recycle",
        "#snapshot",
        "@recycle",
        "@recently-snapshot",
    }
)
UNSUPPORTED = "unsupported picture format"
NOT_REGULAR = "not a regular file"
_KNOWN_SUFFIXES = {*PICTURE_SUFFIXES, *CAPTION_SUFFIXES, *UNSUPPORTED_SUFFIXES}


class Pair(NamedTuple):
    """One sample, as the names of its two files."""

    key: str
    picture: str
    caption: str | None


def is_left_out(name: str) -> bool:
    """Return whether a file or folder is hidden, or made by a system, by its name alone."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def split_name(name: str) -> tuple[str, str]:
    """Split a name into its key and its suffix in lower case, "" for irrelevant files."""
    key, suffix = posixpath.splitext(name)
    *folders, stem = key.split("/")
    is_ignored = (
        stem.startswith(".")
        or (stem.startswith("__") and stem.endswith("__"))
        or any(folder.lower() in SYSTEM_NAMES for folder in folders)
    )
    suffix = suffix.lower()
    return key, suffix if suffix in _KNOWN_SUFFIXES and not is_ignored else ""


def count_unread(names: Iterable[str], pairs: Iterable[Pair]) -> dict[str, int]:
    """Count by suffix the files that are neither pictures of a known format nor caption files."""
    keys = {pair.key for pair in pairs}
    counts: Counter[str] = Counter()
    for name in names:
        key, suffix = split_name(name)
        is_sidecar = suffix in CAPTION_SUFFIXES and (suffix != JSON_SUFFIX or key in keys)
        if suffix not in PICTURE_SUFFIXES and not is_sidecar:
            counts[posixpath.splitext(name)[1].lower() or "no suffix"] += 1
    return dict(counts.most_common())


def count_lost(problems: Iterable[Problem]) -> int:
    """Count the pictures that are left out because they cannot be read."""
    return sum(
        reason == UNSUPPORTED or (reason == NOT_REGULAR and split_name(name)[1] in PICTURE_SUFFIXES)
        for name, reason in problems
    )


def caption_suffixes(pairs: Iterable[Pair]) -> set[str]:
    """Return the suffixes of the pairs' caption files."""
    return {split_name(pair.caption)[1] for pair in pairs if pair.caption is not None}


def describe_captions(suffixes: set[str]) -> str:
    """Describe in which files captions are."""
    found = [suffix for suffix in CAPTION_SUFFIXES if suffix in suffixes]
    return f"with {' and '.join(found)} captions" if found else "without captions"


def pair_up(names: Iterable[str], *, captions_required: bool) -> tuple[list[Pair], list[Problem]]:
    """Pair pictures with captions, in the order in which their keys first appear.

    Also returns the files left over. Names use "/". A name that appears again, or that differs only
    in the case of its suffix, is left over.
    """
    files_of_key: dict[str, dict[str, str]] = {}
    problems = []
    for name in names:
        key, suffix = split_name(name)
        if not suffix:
            continue
        files = files_of_key.setdefault(key, {})
        if suffix in files:
            problems.append((name, "duplicate: the first file of this name is used"))
        else:
            files[suffix] = name

    pairs = []
    for key, files in files_of_key.items():
        pair, left_over = _pair(key, files, captions_required=captions_required)
        pairs += [pair] if pair else []
        problems += left_over
    return pairs, problems


def _pair(
    key: str, files: dict[str, str], *, captions_required: bool
) -> tuple[Pair | None, list[Problem]]:
    caption = next((files[suffix] for suffix in CAPTION_SUFFIXES if suffix in files), None)
    pictures = [files[suffix] for suffix in PICTURE_SUFFIXES if suffix in files]
    unsupported = [files[suffix] for suffix in UNSUPPORTED_SUFFIXES if suffix in files]

    if not pictures:
        if unsupported:
            return None, [(name, UNSUPPORTED) for name in unsupported]
        is_other_json = list(files) == [JSON_SUFFIX]  # it may be anything
        return None, [] if is_other_json else [(caption or key, "caption without picture")]

    left_over = [
        (name, "another picture of this name is used") for name in (pictures + unsupported)[1:]
    ]
    if caption is None and captions_required:
        return None, [*left_over, (pictures[0], NO_CAPTION)]
    return Pair(key, pictures[0], caption), left_over
