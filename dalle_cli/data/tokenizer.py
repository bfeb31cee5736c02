"""Tokenizing captions by byte-pair encoding (Ramesh et al. 2021, section 2.2).

A caption is lower-cased and split at white space; a word is the boundary symbol followed by its
UTF-8 bytes, so that nothing is unknown. Ids 0 to 255 are the bytes, 256 is the boundary, 257 + r is
the piece that the merge of rank r makes. Start of text and padding are not tokens: the transformer
has separate vectors for them. `merge_learners` wraps the libraries that learn merges; storing and
applying them needs none. Dropout follows Provilkov et al. 2020.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from dalle_cli.data.merge_learners import Merges, learn_with_tokenizers, learn_with_youtokentome
from dalle_cli.errors import DalleError, UsageError
from dalle_cli.storage.atomic import write_file
from dalle_cli.storage.integrity.checksums import checksummed_json, read_checksummed_json

BOUNDARY = "▁"
N_SYMBOLS = 257
MIN_VOCAB_SIZE = N_SYMBOLS + 1

# Bytes as printable characters, never space or boundary: all but visible ASCII is shifted by 256
BYTE_CHARACTERS = [chr(byte if 0x21 <= byte <= 0x7E else 0x100 + byte) for byte in range(256)]

MERGES_SCHEMA = 2  # 1, of 0.1.0, has no checksum

CACHED_WORDS = 1 << 16
NO_TOKEN = -1

Backend = Literal["youtokentome", "tokenizers"]
LEARNERS: dict[Backend, Callable[[Iterable[str], set[str], int], Merges]] = {
    "youtokentome": learn_with_youtokentome,
    "tokenizers": learn_with_tokenizers,
}


class Tokenizer:
    """A byte-pair tokenizer, defined by its merges in rank order and nothing else.

    pieces       the readable symbols that each id stands for
    learnt_with  the library that learnt the merges
    """

    def __init__(self, merges: Sequence[tuple[str, str]], learnt_with: Backend) -> None:
        self.merges = tuple(merges)
        self.learnt_with = learnt_with
        self.pieces = [*BYTE_CHARACTERS, BOUNDARY]
        self._ids = {piece: i for i, piece in enumerate(self.pieces)}

        self._parts: list[tuple[int, int]] = []  # by rank: the two ids that become one
        for left, right in self.merges:
            self._add_merge(left, right)

        self._ranks = {parts: rank for rank, parts in enumerate(self._parts)}
        self._spellings = [_spelling_of(piece) for piece in self.pieces]
        self._cache: dict[str, list[int]] = {}

    @property
    def vocab_size(self) -> int:
        """The number of ids: bytes, boundary and merges."""
        return len(self.pieces)

    def encode(
        self, caption: str, *, dropout: float = 0.0, rng: np.random.Generator | None = None
    ) -> list[int]:
        """Tokenize a caption.

        dropout  the probability to skip a merge each time that it would be applied
        rng      decides which; required if dropout is not 0

        Raises ValueError if dropout is not a probability, or has no generator.
        """
        words = byte_words(caption)
        if dropout == 0:
            return [token for word in words for token in self._encode_word(word)]

        if rng is None or not 0 <= dropout <= 1:
            raise ValueError(f"BPE dropout needs a probability and a generator: {dropout}, {rng}")
        return [token for word in words for token in self._merge(word, dropout, rng)]

    def decode(self, ids: Iterable[int]) -> str:
        """Convert tokens back to text; bytes that are not UTF-8 (a cut character) become U+FFFD.

        Raises ValueError for an id outside the vocabulary.
        """
        ids = list(ids)
        if foreign := [i for i in ids if not 0 <= i < self.vocab_size]:
            raise ValueError(f"token id {foreign[0]} is outside a vocabulary of {self.vocab_size}")
        return b"".join(self._spellings[i] for i in ids).decode(errors="replace").removeprefix(" ")

    def save(self, path: Path) -> None:
        """Write the merges as JSON, each on a readable line; the file appears complete or not."""
        merges = [f"{left} {right}" for left, right in self.merges]
        document = {
            "schema_version": MERGES_SCHEMA,
            "learnt_with": self.learnt_with,
            "merges": merges,
        }
        write_file(Path(path), checksummed_json(document, ensure_ascii=False, indent=0))

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Load a file written by `save`; raises DalleError, naming it, if it is anything else."""
        try:
            content = read_checksummed_json(Path(path), since=MERGES_SCHEMA)
            document = _MergesFile.model_validate_json(content)
            return cls([_split_line(line) for line in document.merges], document.learnt_with)
        except OSError as error:
            raise DalleError(f"cannot read the tokenizer {path}: {error.strerror}") from error
        except ValidationError as error:
            problem = error.errors()[0]
            key = "".join(f"{part}: " for part in problem["loc"][:1])
            raise DalleError(f"{path} is not a tokenizer file: {key}{problem['msg']}") from error
        except ValueError as error:
            raise DalleError(f"{path} is not a tokenizer file: {error}") from error

    def _add_merge(self, left: str, right: str) -> None:
        """Assign the next id to left + right.

        Errors name the rank and not the text, which may come from a stranger.
        """
        rank = len(self._parts)
        if left not in self._ids or right not in self._ids:
            raise ValueError(f"merge {rank} joins pieces that no earlier merge makes")
        if left + right in self._ids:
            raise ValueError(f"merge {rank} makes a piece that already exists")

        self._parts.append((self._ids[left], self._ids[right]))
        self._ids[left + right] = len(self.pieces)
        self.pieces.append(left + right)

    def _encode_word(self, word: str) -> list[int]:
        tokens = self._cache.get(word)
        if tokens is None:
            tokens = self._merge(word)
            if len(self._cache) < CACHED_WORDS:
                self._cache[word] = tokens
        return tokens

    def _merge(
        self, word: str, dropout: float = 0.0, rng: np.random.Generator | None = None
    ) -> list[int]:
        """Apply the leftmost merge of the lowest rank until none is left, in O(n log n) steps.

        With dropout, a skipped merge becomes available again once another has been applied; when
        all are skipped in one turn, the word is done.
        """
        n = len(word)
        # A linked list of tokens, whose last entry stands for both ends: n and -1
        tokens = [*(self._ids[symbol] for symbol in word), NO_TOKEN]
        before, after = list(range(-1, n)), [*range(1, n + 1), n]

        queue = [
            (rank, i)
            for i in range(n)
            if (rank := self._ranks.get((tokens[i], tokens[i + 1]))) is not None
        ]
        heapq.heapify(queue)

        skipped: list[tuple[int, int]] = []
        while queue:
            rank, left = heapq.heappop(queue)
            right = after[left]
            if self._parts[rank] != (tokens[left], tokens[right]):
                continue  # one of the two has since become part of something else
            if rng is not None and rng.random() < dropout:
                skipped.append((rank, left))
                continue

            tokens[left], tokens[right] = N_SYMBOLS + rank, NO_TOKEN
            after[left] = after[right]
            before[after[left]] = left

            for i in (before[left], left):
                new_rank = self._ranks.get((tokens[i], tokens[after[i]]))
                if new_rank is not None:
                    heapq.heappush(queue, (new_rank, i))
            while skipped:
                heapq.heappush(queue, skipped.pop())

        return [token for token in tokens if token != NO_TOKEN]


def byte_words(caption: str) -> list[str]:
    """Split a caption into words as merges see them.

    Each is lower-cased: a boundary symbol, then one character per byte.
    """
    # A lone surrogate (from broken JSON or a shell's argument) has no UTF-8, but must not end a run
    words = (word.encode(errors="surrogatepass") for word in caption.lower().split())
    return [BOUNDARY + "".join(BYTE_CHARACTERS[byte] for byte in word) for word in words]


def learn_merges(
    captions: Iterable[str],
    vocab_size: int,
    *,
    backend: Literal["auto", "youtokentome", "tokenizers"] = "auto",
) -> Tokenizer:
    """Learn a tokenizer of at most vocab_size ids; few captions result in fewer.

    "auto" selects youtokentome if it is installed, else tokenizers. The order of the captions makes
    no difference. Raises UsageError for a vocab_size without room for a merge, DalleError for
    captions without a word.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise UsageError(
            f"the tokenizer's vocabulary is too small: {vocab_size}, "
            f"the minimum is {MIN_VOCAB_SIZE}",
            "it holds 256 bytes, the word boundary and at least one merge",
        )
    counts = Counter(word for caption in captions for word in byte_words(caption))
    if not counts:
        raise DalleError("there is no caption to learn a tokenizer from: all are empty")

    # Every merge shortens a word, which bounds their number; libraries allocate what is asked for
    n_merges = min(vocab_size - N_SYMBOLS, sum(len(word) - 1 for word in counts))
    for name in LEARNERS if backend == "auto" else [backend]:
        try:
            merges = LEARNERS[name](repeated_words(counts), set().union(*counts), n_merges)
        except ImportError:
            continue
        return Tokenizer(merges, name)

    raise DalleError(
        f"the library that learns merges is not installed: {backend}",
        "`make install` builds it; `tokenizer.backend=tokenizers` needs no compiler",
    )


def repeated_words(counts: Counter[str]) -> Iterator[str]:
    """Yield a line per distinct word, in sorted order, that repeats it as often as it occurs."""
    for word in sorted(counts):
        yield " ".join([word] * counts[word])


class _MergesFile(BaseModel, strict=True):
    """The content of `merges.json`.

    Pieces are spelled out in full, so that a short file cannot demand much memory.
    """

    schema_version: Annotated[int, Field(ge=1, le=MERGES_SCHEMA)]
    learnt_with: Backend
    merges: list[str]


def _split_line(line: str) -> tuple[str, str]:
    left, _, right = line.partition(" ")
    return left, right


def _spelling_of(piece: str) -> bytes:
    """Convert a piece back to bytes; the boundary becomes a space, which no word contains."""
    return b"".join(
        b" " if character == BOUNDARY else bytes([ord(character) & 0xFF]) for character in piece
    )
