"""What the name of a file tells: its key, its suffix, and whether it is left out.

A key is a name without its suffix, including folders: `birds/001` for `birds/001.jpg`.
"""

import functools
import posixpath
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from dalle_cli.errors import printable

JSON_SUFFIX = ".json"
PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".gif"),
    *(".jfif", ".jpe", ".jif", ".apng"),  # JPEG and PNG by other names
)
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
MOST_COUNTED = 6  # kinds of files that are not read
# By what follows the dot
_SUFFIXES = {
    suffix[1:]: suffix for suffix in (*PICTURE_SUFFIXES, *CAPTION_SUFFIXES, *UNSUPPORTED_SUFFIXES)
}


def is_left_out(name: str) -> bool:
    """Return whether a file or folder is hidden, or made by a system, by its name alone."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def split_name(name: str) -> tuple[str, str]:
    """Split a name into its key and its suffix in lower case, "" for irrelevant files."""
    key, _, ending = name.rpartition(".")
    suffix = _SUFFIXES.get(ending) or _SUFFIXES.get(ending.lower())
    # A file called `.jpg` has a name and no suffix
    if suffix is None or not key or key.endswith("/") or is_ignored(key):
        return posixpath.splitext(name)[0], ""
    return key, suffix


def is_ignored(key: str) -> bool:
    """Return whether a key is of no sample: hidden, `__like_this__`, or in a system's folder."""
    folders, _, stem = key.rpartition("/")
    return (
        stem.startswith(".")
        or (stem.startswith("__") and stem.endswith("__"))
        or (folders != "" and _is_of_system(folders))
    )


@functools.lru_cache
def _is_of_system(folders: str) -> bool:
    return any(folder.lower() in SYSTEM_NAMES for folder in folders.split("/"))


def count_unread(
    names: Iterable[str], keys: Collection[str], pictures: Collection[str] = ()
) -> dict[str, int]:
    """Count by suffix the files that are neither pictures of a known format nor caption files.

    keys      of the samples: a .json file of another key may be anything
    pictures  that are known by their content
    """
    counts: Counter[str] = Counter()
    for name in names:
        key, suffix = split_name(name)
        is_sidecar = suffix in CAPTION_SUFFIXES and (suffix != JSON_SUFFIX or key in keys)
        if suffix not in PICTURE_SUFFIXES and not is_sidecar and name not in pictures:
            counts[posixpath.splitext(name)[1].lower() or "no suffix"] += 1
    return dict(counts.most_common())


def describe_unread(unread: Mapping[str, int]) -> str:
    """Describe the numbers of files that a source holds but does not read, by suffix."""
    counts = list(unread.items())
    parts = [f"{n:,} {printable(suffix)}" for suffix, n in counts[:MOST_COUNTED]]
    n_more = sum(n for _, n in counts[MOST_COUNTED:])
    return ", ".join([*parts, f"{n_more:,} others"] if n_more else parts)
