"""A folder of pictures and caption files, including all its subfolders.

Hidden files and folders are ignored, and those that systems make. A link to a file counts as the
file; a linked folder is not entered, since it may lead in circles. Samples are in the order of
their file names.
"""

import os
import posixpath
from collections.abc import Collection, Iterable, Iterator

from dalle_cli.data.images import BadSample, Problem
from dalle_cli.data.pictures.formats import START, is_picture
from dalle_cli.data.sources.captions import (
    NO_CAPTION,
    captions_or_fault,
    parse_captions,
    parse_json_captions,
)
from dalle_cli.data.sources.columns import Columns
from dalle_cli.data.sources.file_names import (
    JSON_SUFFIX,
    count_unread,
    is_ignored,
    is_left_out,
    split_name,
)
from dalle_cli.data.sources.pairing import (
    NOT_REGULAR,
    caption_suffixes,
    count_lost,
    describe_captions,
    pair_up,
)
from dalle_cli.data.sources.source import Sample, fingerprint_of
from dalle_cli.errors import printable


class FolderSource:
    """Source over the loose files below a folder.

    files     their names, as listed by `list_files`
    skipped   what `list_files` skipped
    pictures  the files that `pictures_by_content` found
    """

    def __init__(
        self,
        name: str,
        files: list[str],
        *,
        skipped: list[Problem],
        pictures: Collection[str],
        columns: Columns,
        captions_required: bool,
    ) -> None:
        self.name = name
        self._columns = columns
        self._captions_required = captions_required

        self._pairs, unpaired = pair_up(
            files, captions_required=captions_required, pictures=pictures
        )
        self.form = f"folder of pictures {describe_captions(caption_suffixes(self._pairs))}"
        keys = {key for pair in self._pairs for key in (pair.key, pair.picture)}
        self.unread = count_unread(files, keys, pictures)
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
        captions, fault = self._captions_or_fault(index)
        return Sample(self.key(index), picture, captions=captions, caption_fault=fault)

    def captions(self, index: int) -> list[str]:
        return self._captions_or_fault(index)[0]

    def fingerprint(self) -> str:
        return fingerprint_of(
            (pair.key, self._size(pair.picture), sum(map(self._size, pair.captions)))
            for pair in self._pairs
        )

    def _captions_or_fault(self, index: int) -> tuple[list[str], str]:
        return captions_or_fault(
            lambda: self._parse_captions(index), required=self._captions_required
        )

    def _parse_captions(self, index: int) -> list[str]:
        files = self._pairs[index].captions
        if not files:
            raise BadSample(NO_CAPTION)
        return [caption for file in files for caption in self._parse_file(file)]

    def _parse_file(self, file: str) -> list[str]:
        if file.lower().endswith(JSON_SUFFIX):
            return parse_json_captions(self._bytes(file), self._columns)
        return parse_captions(self._bytes(file))

    def _path(self, file: str) -> str:
        return os.path.join(self.name, *file.split("/"))

    def _bytes(self, file: str) -> bytes:
        with open(self._path(file), "rb") as opened:
            return opened.read()

    def _size(self, file: str) -> int:
        return os.path.getsize(self._path(file))


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


def pictures_by_content(root: str, files: Iterable[str]) -> set[str]:
    """Return the files without a suffix, such as hashes for names, that begin as pictures do."""
    return {
        file
        for file in files
        if not posixpath.splitext(file)[1]
        and not is_ignored(file)
        and is_picture(_start(os.path.join(root, file)))
    }


def _start(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(START)
    except OSError:  # of a file that may be anything
        return b""


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
