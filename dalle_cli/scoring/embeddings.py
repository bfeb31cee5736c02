"""From picture files to embeddings: known ones from the cache, others decoded in threads and embedded in batches.

A file that cannot be read or decoded is told apart and stops nothing. Axis: E CLIP's shared width.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from dalle_cli.data.images import BadSample, decode_image
from dalle_cli.scoring.clip_scorer import ClipScorer
from dalle_cli.scoring.embedding_cache import EmbeddingCache

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Embedded:
    """What became of a file: the checksum of its bytes, and its embedding float32 [E] or why there is none."""

    checksum: str
    embedding: np.ndarray | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Prepared:
    """A picture ready to be embedded, uint8 [H, W, 3], or why it is not."""

    checksum: str
    square: np.ndarray | None = None
    problem: str | None = None


def embed_files(
    files: list[Path],
    scorer: ClipScorer,
    cache: EmbeddingCache,
    batch_size: int,
    advance: Callable[[], None],
) -> list[Embedded]:
    """Embed the pictures of files; equal ones, and those known from an earlier time, are not computed again.

    advance  called once for each file
    """
    with ThreadPoolExecutor() as pool:
        read = list(pool.map(checksum_of, files))
        file_of = {
            one.checksum: file for one, file in zip(read, files, strict=True) if one.problem is None
        }
        embedded = {
            checksum: Embedded(checksum, vector) for checksum, vector in cache.find(file_of).items()
        }
        new = [checksum for checksum in file_of if checksum not in embedded]
        for _ in range(len(files) - len(new)):
            advance()
        for batch in prefetch(
            pool, lambda checksum: prepare(checksum, file_of[checksum], scorer), new, batch_size
        ):
            embedded |= embed_batch(batch, scorer, cache)
            for _ in batch:
                advance()
    return [one if one.problem is not None else embedded[one.checksum] for one in read]


def embed_batch(
    batch: list[Prepared], scorer: ClipScorer, cache: EmbeddingCache
) -> dict[str, Embedded]:
    """Embed what is readable in a batch, keep it for later, and give all of the batch by checksum."""
    readable = [one for one in batch if one.square is not None]
    embeddings = {one.checksum: Embedded(one.checksum, problem=one.problem) for one in batch}
    if readable:
        vectors = scorer.embed_pictures([one.square for one in readable]).numpy()
        fresh = dict(zip((one.checksum for one in readable), vectors, strict=True))
        cache.add(fresh)
        embeddings |= {checksum: Embedded(checksum, vector) for checksum, vector in fresh.items()}
    return embeddings


def prefetch(
    pool: ThreadPoolExecutor, work: Callable[[Item], Answer], items: Sequence[Item], size: int
) -> Iterator[list[Answer]]:
    """Do work on items in threads, a batch prefetch of what is asked for."""
    batches = [items[start : start + size] for start in range(0, len(items), size)]
    pending = [pool.submit(work, item) for item in (batches[0] if batches else [])]
    for batch in itertools.islice(itertools.chain(batches, [[]]), 1, None):
        current, pending = pending, [pool.submit(work, item) for item in batch]
        yield [future.result() for future in current]


def checksum_of(file: Path) -> Embedded:
    """Hash a file's bytes, or say why it cannot be read."""
    try:
        if file.exists() and not file.is_file():  # a pipe or a device might never end
            return Embedded("", problem="not a file, but a folder, a pipe or a device")
        with file.open("rb") as opened:
            return Embedded(hashlib.file_digest(opened, "sha256").hexdigest())
    except (OSError, ValueError) as error:
        return Embedded("", problem=getattr(error, "strerror", None) or str(error))


def prepare(checksum: str, file: Path, scorer: ClipScorer) -> Prepared:
    """Decode the picture that has a checksum and cut CLIP's square out of it, or say why that cannot be done."""
    try:
        data = file.read_bytes()
        if (
            hashlib.sha256(data).hexdigest() != checksum
        ):  # kept under it, another picture's embedding would stay
            return Prepared(checksum, problem="changed while it was read")
        return Prepared(checksum, scorer.square(decode_image(data)))
    except BadSample as error:
        return Prepared(checksum, problem=error.reason)
    except OSError as error:
        return Prepared(checksum, problem=error.strerror)
