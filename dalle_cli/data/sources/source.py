"""The interface of every source of captioned pictures, whatever its form on disk."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from dalle_cli.data.images import Problem
from dalle_cli.data.unclip.clip_embeddings import SampleEmbeddings


@dataclass(frozen=True)
class Sample:
    """One picture, still encoded, and its captions.

    captions      empty only if the source was opened without requiring them
    caption_fault  why there are none, or ""
    image_tokens  integers [C, I] in place of the picture, from a folder of tokens: those of the
                  centred crop, then those of the others
    embeddings    CLIP's of picture and captions, from a folder of embeddings
    """

    key: str
    image: bytes
    captions: list[str]
    image_tokens: np.ndarray | None = None
    caption_fault: str = field(default="", compare=False)
    embeddings: SampleEmbeddings | None = None

    @property
    def is_encoded(self) -> bool:
        """Whether something that was made of the picture stands in its place."""
        return self.image_tokens is not None or self.embeddings is not None


class Source(Protocol):
    """Samples by number, in an order that depends only on the files. Pickles, for loader workers.

    name      what the user typed
    form      what it was taken for, in words, safe to print
    problems  (where, reason) for everything that indexing left out, and for a list of keys to
              exclude of which some are unknown; safe to print
    unread    the number of files that it holds but does not read, by suffix
    n_lost    the number of samples that indexing left out although they were to be samples, as far
              as can be told
    """

    name: str
    form: str
    problems: list[Problem]
    unread: dict[str, int]
    n_lost: int

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """Return the key of a sample without reading it.

        Keys come from file names: they are never used as paths and never printed raw.
        """
        ...

    def read(self, index: int) -> Sample:
        """Read a sample; raises `BadSample` for its faults, `OSError` for those of the disk."""
        ...

    def captions(self, index: int) -> list[str]:
        """Read the captions alone; raises like `read`."""
        ...

    def fingerprint(self) -> str:
        """Hash the keys and sizes of all samples in order, to detect changed data."""
        ...


def fingerprint_of(entries: Iterable[tuple[str, int, int]]) -> str:
    """Hash (key, bytes of the picture, bytes of the captions) of every sample, in order."""
    digest = hashlib.sha256()
    for key, picture_size, captions_size in entries:
        digest.update(key_bytes(key) + f"\n{picture_size} {captions_size}\n".encode())
    return digest.hexdigest()


def key_bytes(key: str) -> bytes:
    """Encode a key, even from a file name that is not UTF-8.

    Python represents its odd bytes as surrogates.
    """
    return key.encode("utf-8", "surrogatepass")
