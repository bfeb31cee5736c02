"""What every source of captioned pictures can do, whatever its form on disk."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

Problem = tuple[str, str]


@dataclass(frozen=True)
class Sample:
    """One picture, as its file holds it, and its captions (none only where the source was opened without needing them).

    image_tokens  integers [C, I] in place of the picture, from a folder of tokens: the centred crop, then the others
    """

    key: str
    image: bytes
    captions: list[str]
    image_tokens: np.ndarray | None = None


class Source(Protocol):
    """Samples by number, in an order that depends on nothing but what lies on disk. Pickles, for loader workers.

    `name` is what the user typed; `problems` lists (where, reason) of what indexing left out, printable as it is.
    """

    name: str
    problems: list[Problem]

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """Name the sample without reading anything. Keys come from file names: never a path, never printed raw."""
        ...

    def read(self, index: int) -> Sample:
        """Read one sample. Raises `BadSample` for the sample's own faults, `OSError` for the disk's."""
        ...

    def captions(self, index: int) -> list[str]:
        """Read the captions alone. Raises like `read`."""
        ...

    def fingerprint(self) -> str:
        """Hash the keys and sizes of all samples in order, to tell whether data have changed since."""
        ...


def fingerprint_of(entries: Iterable[tuple[str, int, int]]) -> str:
    """Hash (key, bytes of the picture, bytes of the captions) of every sample, in order."""
    digest = hashlib.sha256()
    for key, picture_size, captions_size in entries:
        digest.update(key_bytes(key) + f"\n{picture_size} {captions_size}\n".encode())
    return digest.hexdigest()


def key_bytes(key: str) -> bytes:
    """Encode a key, also one whose file name is not UTF-8 (Python holds its odd bytes as surrogates)."""
    return key.encode("utf-8", "surrogatepass")
