"""A folder of pictures and caption files, including all its subfolders.

Hidden files and folders are ignored, and those that systems make. A link to a file counts as the
file; a linked folder is not entered, since it may lead in circles. Samples are in the order of
their file names.
"""

import os
from collections.abc import Iterator

from dalle_cli.data.images import Problem
from dalle_cli.data.sources.captions import JSON_SUFFIX, parse_captions, parse_json_captions
from dalle_cli.data.sources.columns import Columns
from dalle_cli.data.sources.pairing import (
    NOT_REGULAR,
    caption_suffixes,
    count_lost,
    count_unread,
    describe_captions,
    is_left_out,
    pair_up,
    split_name,
)
from dalle_cli.data.sources.source import Sample, fingerprint_of
from dalle_cli.errors import printable


class FolderSource:
    """Source over the loose files below a folder.

    files    their names, as listed by `list_files`
    skipped  what `list_files` skipped
    """

    def __init__(
        self,
        name: str,
        files: list[str],
        *,
        skipped: list[Problem],
        columns: Columns,
        captions_required: bool,
    ) -> None:
        self.name = name
        self._columns = columns
        self._captions_required = captions_required

        self._pairs, unpaired = pair_up(files, captions_required=captions_required)
        self.form = f"folder of pictures {describe_captions(caption_suffixes(self._pairs))}"
        self.unread = count_unread(files, self._pairs)
        self.n_lost = count_lost(skipped + unpaired)
        self.problems = [
            (printable(self._path(file)), reason) for file, reason in skipped + unpaired
        ]

    def __len__(self) -> int:
        return len(self._pairs)

    def key(self, index: int) -> str:
        return self._pairs[index].key

    def read(self, index: int) -> Sample:
        picture = self._bytes(self._pairs[index].picture)
        return Sample(self.key(index), picture, captions=self.captions(index))

    def captions(self, index: int) -> list[str]:
        file = self._pairs[index].caption
        if file is None:
            return []
        text, required = self._bytes(file), self._captions_required
        if file.lower().endswith(JSON_SUFFIX):
            return parse_json_captions(text, self._columns, required=required)
        return parse_captions(text, required=required)

    def fingerprint(self) -> str:
        return fingerprint_of(
            (pair.key, self._size(pair.picture), self._size(pair.caption)) for pair in self._pairs
        )

    def _path(self, file: str) -> str:
        return os.path.join(self.name, *file.split("/"))

    def _bytes(self, file: str) -> bytes:
        with open(self._path(file), "rb") as opened:
            return opened.read()

    def _size(self, file: str | None) -> int:
        return 0 if file is None else os.path.getsize(self._path(file))


def is_tar(name: str) -> bool:
    """Return whether a file is a shard, by its name."""
    return name.lower().endswith(".tar")


def list_files(root: str) -> tuple[list[str], list[Problem]]:
    """List the regular files below a folder as sorted names with "/", and what was skipped."""
    names, problems = [], []
    for name, entry in _walk(root):
        if entry.is_file():
            names.append(name)
        elif entry.is_dir():
            problems.append((name, "linked folder, not entered"))
        elif split_name(name)[1]:
            problems.append((name, NOT_REGULAR))
    return sorted(names), sorted(problems)


def _walk(root: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    prefixes = [""]
    while prefixes:
        prefix = prefixes.pop()
        with os.scandir(os.path.join(root, prefix)) as entries:
            for entry in entries:
                if is_left_out(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    prefixes.append(f"{prefix}{entry.name}/")
                else:
                    yield prefix + entry.name, entry
