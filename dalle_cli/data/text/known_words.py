"""The words of a run's training captions, by which a word that was never trained on is noticed.

A caption is lower-cased and split at everything that is not a letter, a digit or a mark that
belongs to one; an apostrophe inside a word belongs to it. In scripts that are written without
spaces, every character is a word. Knows nothing of tokens.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from dalle_cli.errors import DalleError
from dalle_cli.storage.atomic import make_folder, write_file
from dalle_cli.storage.integrity.checksums import checksummed_json, read_checksummed_json

WORDS_SCHEMA = 2  # 1 has no checksum
MOST_WORDS = 200_000
APOSTROPHES = "'\u2019"
# Thai and Lao, Burmese, Khmer, kana, Han and its extensions
WITHOUT_SPACES = (
    range(0x0E00, 0x0F00),
    range(0x1000, 0x10A0),
    range(0x1780, 0x1800),
    range(0x3040, 0x3100),
    range(0x3400, 0x4DC0),
    range(0x4E00, 0xA000),
    range(0xF900, 0xFB00),
    range(0x20000, 0x32400),
)


class _Spacing(dict[int, str]):
    """What `str.translate` puts in place of each character, computed when it is first met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if any(code in script for script in WITHOUT_SPACES):
            spaced = f" {character} "
        elif character in APOSTROPHES:
            spaced = "'"
        else:
            spaced = character if unicodedata.category(character)[0] in "LNM" else " "
        self[code] = spaced
        return spaced


_SPACING = _Spacing()


def split_words(caption: str) -> list[str]:
    """Split a caption into words."""
    stripped = (word.strip("'") for word in caption.lower().translate(_SPACING).split())
    return [word for word in stripped if word]


@dataclass(frozen=True)
class KnownWords:
    """The words of the training captions.

    is_complete  whether these are all of them, or only the most frequent
    """

    words: frozenset[str]
    is_complete: bool = True

    @classmethod
    def of_captions(cls, captions: Iterable[str], most: int = MOST_WORDS) -> "KnownWords":
        """Collect the words of captions; of more than `most`, the most frequent."""
        counts = Counter(word for caption in captions for word in split_words(caption))
        if len(counts) <= most:
            return cls(frozenset(counts))
        # in alphabetical order among equals, so that the order of the captions makes no difference
        frequent = sorted(counts, key=lambda word: (-counts[word], word))[:most]
        return cls(frozenset(frequent), is_complete=False)

    def with_those_of(self, other: "KnownWords") -> "KnownWords":
        """Return the words of both."""
        return KnownWords(self.words | other.words, self.is_complete and other.is_complete)

    def unknown_in(self, caption: str) -> list[str]:
        """List the words of a caption that are not known, each once, in order."""
        return [word for word in dict.fromkeys(split_words(caption)) if word not in self.words]

    def save(self, path: Path) -> None:
        """Write the words as JSON, one per line; the file appears complete or not at all."""
        content = {
            "schema_version": WORDS_SCHEMA,
            "is_complete": self.is_complete,
            "words": sorted(self.words),
        }
        make_folder(path.parent)
        write_file(path, checksummed_json(content, ensure_ascii=False, indent=0))

    @classmethod
    def load(cls, path: Path) -> "KnownWords":
        """Load a file that `save` wrote; raises DalleError, naming it, if it is anything else."""
        try:
            document = read_checksummed_json(path, since=WORDS_SCHEMA)
            content = _WordsFile.model_validate_json(document)
        except OSError as error:
            raise DalleError(f"cannot read {path}: {error.strerror}") from error
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise DalleError(f"{path} is not a list of words: {problem}") from error
        return cls(frozenset(content.words), content.is_complete)


class _WordsFile(BaseModel, strict=True):
    """The content of `words.json`."""

    schema_version: Literal[1, 2]
    is_complete: bool
    words: list[str]
