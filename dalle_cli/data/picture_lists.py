"""Lists of pictures: those in a folder, in a text list, or in a manifest, which may add captions.

Handles paths alone: whether a picture can be read is found out when it is.
"""

import os
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dalle_cli.data.images import BadSample, Problem
from dalle_cli.data.sources.captions import clean_captions
from dalle_cli.data.sources.columns import DOWNLOAD, Columns, captions_in
from dalle_cli.data.sources.file_names import (
    PICTURE_SUFFIXES,
    count_unread,
    describe_unread,
    split_name,
)
from dalle_cli.data.sources.folder import list_files, pictures_by_content
from dalle_cli.data.sources.paths import is_address
from dalle_cli.data.tables import TABLE_SUFFIXES, read_table
from dalle_cli.data.text.encodings import decode_text
from dalle_cli.errors import DalleError, UsageError, printable
from dalle_cli.storage.run_dir import JOB, MANIFEST
from dalle_cli.storage.small_files import load_json, read_input, read_stream


class ListedPicture(NamedTuple):
    """The path of a picture, and its caption if the list has one."""

    path: Path
    caption: str | None = None


class PictureList(NamedTuple):
    """Pictures, and what was passed over in the folders that were searched for them.

    unread    the number of files that are neither pictures nor captions, by suffix
    problems  (where, reason) for files and folders that were not opened
    """

    pictures: list[ListedPicture]
    unread: dict[str, int]
    problems: list[Problem]


def list_pictures(spec: str) -> PictureList:
    """List the pictures of a folder, of a manifest, of a text list, or a single picture.

    A folder written by `generate` is listed by its manifest. A manifest (.csv, .tsv, .jsonl,
    .ndjson, .json) names pictures in a column `file`, or in one that training takes, relative to
    itself, and may have captions, of which the first counts. A text list (.txt, or - for standard
    input) names one picture a line.

    Raises DalleError if there is no picture or the list is damaged.
    """
    path = Path(spec)
    if spec == "-":
        pictures = _from_lines(_decode(read_stream(sys.stdin.buffer, "standard input")))
    elif path.is_dir() and _is_generated(path):
        pictures = _from_manifest(path / MANIFEST)
    elif path.suffix.lower() in TABLE_SUFFIXES:
        pictures = _from_manifest(path)
    elif path.suffix.lower() == ".txt":
        pictures = _from_lines(_read(path))
    else:
        return find_pictures([path])

    if not pictures:
        raise _no_pictures([path])
    return PictureList(pictures, {}, [])


def find_pictures(paths: list[Path]) -> PictureList:
    """List pictures, and those of folders in the order of their names.

    Raises UsageError for a path that does not exist, DalleError if there is no picture.
    """
    pictures: list[ListedPicture] = []
    unread: Counter[str] = Counter()
    problems: list[Problem] = []
    for path in paths:
        if not path.exists():
            raise UsageError(f"no such picture or folder: {path}", _nearest_folder(path))
        if not path.is_dir():
            pictures.append(ListedPicture(path))
            continue

        names, skipped = list_files(str(path))
        by_content = pictures_by_content(str(path), names)
        found = [n for n in names if split_name(n)[1] in PICTURE_SUFFIXES or n in by_content]
        pictures += [ListedPicture(path / n) for n in sorted(found, key=lambda n: n.split("/"))]
        unread.update(count_unread(names, (), by_content))
        problems += [(printable(str(path / name)), reason) for name, reason in skipped]

    if not pictures:
        raise _no_pictures(paths, dict(unread.most_common()))
    return PictureList(pictures, dict(unread.most_common()), problems)


def _no_pictures(paths: list[Path], unread: Mapping[str, int] | None = None) -> DalleError:
    found = f"not read: {describe_unread(unread)}; " if unread else ""
    return DalleError(
        f"no pictures in {printable(', '.join(map(str, paths)))}",
        f"{found}expected a folder, a .txt list, or a .csv, .tsv, .jsonl or .json table",
    )


def _nearest_folder(path: Path) -> str:
    """Return how much of a path exists, as a hint."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    missing = path.absolute().relative_to(folder).parts[0]
    return f"{printable(str(folder))} exists, but has no {printable(missing)}"


def _is_generated(folder: Path) -> bool:
    """Return whether `generate` wrote a folder; others may hold a manifest of different content."""
    try:
        if not (folder / MANIFEST).is_file() or not (folder / JOB).is_file():
            return False
        job = load_json(folder / JOB)
    except (OSError, ValueError):
        return False
    return isinstance(job, dict) and job.get("command") == "generate"


def _from_lines(text: str) -> list[ListedPicture]:
    return [ListedPicture(Path(line)) for line in text.split("\n") if line.strip()]


def _from_manifest(path: Path) -> list[ListedPicture]:
    try:
        rows = [row for _, row in read_table(str(path))]
    except OSError as error:
        raise _unreadable(path, error) from error
    return [
        _listed(row, path.parent, f"{path}: row {number}")
        for number, row in enumerate(rows, start=1)
    ]


def _listed(row: object, folder: Path, place: str) -> ListedPicture:
    cells = row if isinstance(row, dict) else {}
    named = [cells[column] for column in Columns().find_images(cells) if cells[column]]
    name = cells.get("file") or next(iter(named), None)
    if not isinstance(name, str):
        raise DalleError(f"{place} does not name a picture as `file` or `image`")
    if is_address(name):
        raise DalleError(f"{place} names an address, not a file: {printable(name)}", DOWNLOAD)

    try:
        os.fsencode(name)
        captions = clean_captions(captions_in(cells, Columns().find_captions(cells)))
    except UnicodeEncodeError as error:
        raise DalleError(f"{place} names a picture in text that is not UTF-8") from error
    except BadSample as error:
        raise DalleError(f"{place}: {error.reason}") from error
    return ListedPicture(folder / name, captions[0] if captions else None)


def _read(path: Path) -> str:
    try:
        return _decode(read_input(path))
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DalleError:
    message = f"cannot read {printable(str(path))}: {error.strerror}"
    if isinstance(error, FileNotFoundError):
        return UsageError(message, _nearest_folder(path))
    return DalleError(message)


def _decode(data: bytes) -> str:
    """Decode text in which bytes that are not UTF-8 may belong to file names."""
    return decode_text(data, errors="surrogateescape").replace("\r\n", "\n")
