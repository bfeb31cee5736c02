"""Pairing pictures with captions by their names alone.

A key is a name without its suffix, including folders (`birds/001` for `birds/001.jpg`), so equal
file names in different folders never meet. Of two pictures with one key, the first suffix in
`PICTURE_SUFFIXES` wins. Hidden files and files `__like_this__` are not samples.
"""

import posixpath
from collections.abc import Iterable
from typing import NamedTuple

from dalle_cli.data.images import Problem
from dalle_cli.data.sources.captions import NO_CAPTION

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
CAPTION_SUFFIX = ".txt"
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
_KNOWN_SUFFIXES = {*PICTURE_SUFFIXES, CAPTION_SUFFIX, *UNSUPPORTED_SUFFIXES}


class Pair(NamedTuple):
    """One sample, as the names of its two files."""

    key: str
    picture: str
    caption: str | None


def split_name(name: str) -> tuple[str, str]:
    """Split a name into its key and its suffix in lower case, "" for irrelevant files."""
    key, suffix = posixpath.splitext(name)
    stem = posixpath.basename(key)
    is_ignored = stem.startswith(".") or (stem.startswith("__") and stem.endswith("__"))
    suffix = suffix.lower()
    return key, suffix if suffix in _KNOWN_SUFFIXES and not is_ignored else ""


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
    caption = files.get(CAPTION_SUFFIX)
    pictures = [files[suffix] for suffix in PICTURE_SUFFIXES if suffix in files]
    unsupported = [files[suffix] for suffix in UNSUPPORTED_SUFFIXES if suffix in files]

    if not pictures:
        if unsupported:
            return None, [(name, "unsupported picture format") for name in unsupported]
        return None, [(caption or key, "caption without picture")]

    left_over = [
        (name, "another picture of this name is used") for name in (pictures + unsupported)[1:]
    ]
    if caption is None and captions_required:
        return None, [*left_over, (pictures[0], NO_CAPTION)]
    return Pair(key, pictures[0], caption), left_over
