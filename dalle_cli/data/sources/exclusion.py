"""Samples left out by their keys: the list of keys on disk, and a source without these samples.

A list has one key a line, and blank lines count for nothing. A key that would not come back from
such a line, because of a line break in it for instance, is written as a JSON string. `dalle data
overlap` writes lists, and people do. Knows nothing of why a sample is left out.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from dalle_cli.data.images import Problem
from dalle_cli.data.sources.file_names import split_name
from dalle_cli.data.sources.source import Sample, Source, key_bytes
from dalle_cli.data.text.encodings import decode_text
from dalle_cli.errors import SURROGATE, DalleError, UsageError, printable
from dalle_cli.storage.small_files import read_input

_QUOTE, _MARK = '"', "\ufeff"  # what a JSON string, and what a text file may begin with


class RemainingSource:
    """Source over the samples of another whose keys are not excluded, in the same order.

    whole          the other source
    excluded_keys  of samples that are left out
    n_excluded     the number of these samples: several may have the same key
    """

    def __init__(self, whole: Source, keys: Collection[str]) -> None:
        found = [whole.key(index) for index in range(len(whole))]
        is_excluded = np.array([key in keys for key in found], bool)
        self._excluded = np.flatnonzero(is_excluded)
        self._remaining = np.flatnonzero(~is_excluded)
        self.whole = whole
        self.excluded_keys = {found[index] for index in self._excluded}
        self.n_excluded = len(self._excluded)

        self.name = whole.name
        self.form = f"{whole.form}; {self.n_excluded:,} samples excluded"
        self.problems: list[Problem] = list(whole.problems)
        self.unread = whole.unread
        self.n_lost = whole.n_lost

    def __len__(self) -> int:
        return len(self._remaining)

    def key(self, index: int) -> str:
        return self.whole.key(int(self._remaining[index]))

    def read(self, index: int) -> Sample:
        return self.whole.read(int(self._remaining[index]))

    def captions(self, index: int) -> list[str]:
        return self.whole.captions(int(self._remaining[index]))

    def fingerprint(self) -> str:
        """Hash the keys left out with the other's fingerprint, which it is if there are none."""
        if not self.n_excluded:
            return self.whole.fingerprint()
        digest = hashlib.sha256(self.whole.fingerprint().encode())
        for index in self._excluded:
            digest.update(b"\n" + key_bytes(self.whole.key(int(index))))
        return digest.hexdigest()


def exclude_samples(sources: Sequence[Source], file: Path) -> list[RemainingSource]:
    """Leave the samples out whose keys stand in a list, of every source that has them.

    Keys that no source has are a problem of the first one. Raises DalleError where the list can't
    be read, or leaves nothing of a source.
    """
    keys = read_keys(file)
    remaining = [RemainingSource(source, keys) for source in sources]
    for source in remaining:
        if not len(source):
            raise DalleError(
                f"every sample of {printable(source.name)} is excluded by {printable(str(file))}",
                "leave the source out instead, or shorten the list",
            )

    unknown = keys.difference(*(source.excluded_keys for source in remaining))
    if unknown:
        remaining[0].problems.append((printable(file.name), _describe(unknown, len(keys))))
    return remaining


def key_list(keys: Iterable[str]) -> str:
    """Return keys as the text of a list, in their order."""
    return "".join(f"{_line_of(key)}\n" for key in keys)


def read_keys(file: Path) -> set[str]:
    """Read the keys in a list; raises UsageError where there is none, DalleError for no text."""
    try:
        text = decode_text(read_input(file), errors="surrogateescape")
    except OSError as error:
        failure = UsageError if isinstance(error, FileNotFoundError) else DalleError
        message = f"cannot read {printable(str(file))}: {error.strerror or error}"
        raise failure(message, "`--exclude` names a list of keys, one a line") from error
    except UnicodeError as error:
        raise DalleError(f"{printable(str(file))} is not text", "save it as UTF-8") from error
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return {_key_in(line) for line in lines if line.strip()}


def _line_of(key: str) -> str:
    is_plain = (
        key == key.strip() != ""
        and key[0] not in (_QUOTE, _MARK)
        and "\n" not in key
        and "\r" not in key
        and not SURROGATE.search(key)
    )
    return key if is_plain else json.dumps(key)


def _key_in(line: str) -> str:
    if not line.startswith(_QUOTE):
        return line
    try:
        return str(json.loads(line))
    except ValueError:
        return line  # the name of a file may begin with a quotation mark


def _describe(unknown: Collection[str], n_keys: int) -> str:
    """Return what is wrong with a list of which some keys are unknown."""
    example = min(unknown)
    advice = "; a key is a path without its suffix" if split_name(example)[1] else ""
    of_no_sample = f"{len(unknown):,} of {n_keys:,} keys are of no sample"
    return f"{of_no_sample}, such as {printable(example)}{advice}"
