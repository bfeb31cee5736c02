"""From a file, a glob or a brace range (`train-{0000..0041}.tar`) to the files that it names."""

import glob
import os
import re
from collections.abc import Iterator

from dalle_cli.errors import DalleError, printable

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")


def is_address(text: str) -> bool:
    """Return whether a text is a URL, whatever its protocol, rather than a path."""
    return _ADDRESS.match(text) is not None


def expand_files(spec: str) -> list[str]:
    """Return the files of a glob, sorted, or those of a range, in order.

    Raises DalleError if a file of a range is missing.
    """
    if os.path.isfile(spec):
        return [spec]
    if _RANGE.search(spec):
        return _files_of_range(spec)
    return sorted(path for path in glob.glob(spec, recursive=True) if os.path.isfile(path))


def missing_file(path: str, folder: str) -> str:
    """Describe a file that is not there, with the folder that its path is relative to."""
    place = "" if os.path.isabs(path) else f" in {folder or '.'}"
    return printable(f"no such file{place}: {path}")


def _files_of_range(spec: str) -> list[str]:
    paths = []
    for path in _expand_ranges(spec):  # stops at the first gap, however long the range is
        if not os.path.isfile(path):
            raise DalleError(
                f"shard is missing: {printable(path)}", "give the range of shards that exist"
            )
        paths.append(path)

    if not paths:
        raise DalleError(
            f"empty range: {printable(spec)}", "the first number must not be above the second"
        )
    return paths


def _expand_ranges(spec: str) -> Iterator[str]:
    """Expand every `{000..041}`, padded with zeros to the width of the first number."""
    match = _RANGE.search(spec)
    if not match:
        yield spec
        return

    low, high = match.groups()
    before, after = spec[: match.start()], spec[match.end() :]
    for number in range(int(low), int(high) + 1):
        yield from _expand_ranges(f"{before}{number:0{len(low)}d}{after}")
