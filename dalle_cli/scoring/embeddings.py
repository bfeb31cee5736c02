"""Embeddings of picture files, from the cache or computed in batches; files are decoded in threads.

Several processes each embed whole batches, so that embeddings are those of one. A file that cannot
be read or decoded is reported with its problem and stops nothing. Axis: E CLIP's shared width.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from dalle_cli.console import advance_for_all
from dalle_cli.data.images import BadSample, decode_image
from dalle_cli.runtime.distributed import World
from dalle_cli.scoring.clip_scorer import ClipScorer
from dalle_cli.scoring.embedding_cache import EmbeddingCache

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Embedded:
    """A file's checksum, and its embedding float32 [E] or the problem that it has instead."""

    checksum: str
    embedding: np.ndarray | None = None
    problem: str | None = None


@dataclass(frozen=True)
class _Prepared:
    """A picture ready to be embedded, uint8 [H, W, 3], or the problem that it has instead."""

    checksum: str
    square: np.ndarray | None = None
    problem: str | None = None


def embed_files(
    files: Sequence[Path],
    scorer: ClipScorer,
    *,
    cache: EmbeddingCache,
    batch_size: int,
    advance: Callable[[], None],
    world: World,
) -> list[Embedded]:
    """Embed the pictures in files; each distinct picture is computed once, unless it is cached.

    advance  called once for each file

    Every rank takes part and caches what it has computed; the main one, whose cache decides what is
    new, gets the result, and the others an empty list.
    """
    hashed = _hash_files(files, world)
    file_of = {
        result.checksum: file
        for result, file in zip(hashed, files, strict=True)
        if result.problem is None
    }
    cached = cache.find(file_of) if world.is_main else {}
    new = world.broadcast([checksum for checksum in file_of if checksum not in cached])
    for _ in range(len(files) - len(new)):
        advance()

    share = world.share_of_batches(len(new), batch_size)
    fresh = _embed_new(
        {checksum: file_of[checksum] for checksum in new[share.start : share.stop]},
        scorer,
        cache=cache,
        batch_size=batch_size,
        advance=advance_for_all(advance, n_ours=len(share), n_all=len(new)),
    )
    world.reach("the end of the pictures")
    embedded = dict(world.gather(list(fresh.items())))
    if not world.is_main:
        return []

    embedded |= {checksum: Embedded(checksum, vector) for checksum, vector in cached.items()}
    return [
        result if result.problem is not None else embedded[result.checksum] for result in hashed
    ]


def _hash_files(files: Sequence[Path], world: World) -> list[Embedded]:
    """Hash all files, each of them in one process."""
    share = world.share_of_batches(len(files), 1)
    with ThreadPoolExecutor() as pool:
        return world.all_gather(list(pool.map(checksum_of, files[share.start : share.stop])))


def _embed_new(
    file_of: Mapping[str, Path],
    scorer: ClipScorer,
    *,
    cache: EmbeddingCache,
    batch_size: int,
    advance: Callable[[], None],
) -> dict[str, Embedded]:
    """Embed pictures, by checksum, in batches, each of which is cached once it is computed."""

    def prepare(checksum: str) -> _Prepared:
        return _prepare(checksum, file_of[checksum], scorer)

    embedded: dict[str, Embedded] = {}
    with ThreadPoolExecutor() as pool:
        for batch in prefetch(prepare, list(file_of), pool=pool, batch_size=batch_size):
            embedded |= _embed_batch(batch, scorer, cache)
            for _ in batch:
                advance()
    return embedded


def prefetch(
    work: Callable[[Item], Answer],
    items: Sequence[Item],
    *,
    pool: ThreadPoolExecutor,
    batch_size: int,
) -> Iterator[list[Answer]]:
    """Run work on items in threads, a batch ahead of the consumer; yield the answers in order."""
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    pending = [pool.submit(work, item) for item in (batches[0] if batches else [])]
    for batch in itertools.islice(itertools.chain(batches, [[]]), 1, None):
        current, pending = pending, [pool.submit(work, item) for item in batch]
        yield [future.result() for future in current]


def checksum_of(file: Path) -> Embedded:
    """Hash a file's bytes; the result has a problem if it cannot be read."""
    try:
        if file.exists() and not file.is_file():  # a pipe or a device might never end
            return Embedded("", problem="not a file, but a folder, a pipe or a device")
        with file.open("rb") as opened:
            return Embedded(hashlib.file_digest(opened, "sha256").hexdigest())
    except (OSError, ValueError) as error:
        return Embedded("", problem=getattr(error, "strerror", None) or str(error))


def _prepare(checksum: str, file: Path, scorer: ClipScorer) -> _Prepared:
    """Decode the picture that has a checksum and crop it to CLIP's square."""
    try:
        data = file.read_bytes()
        # cached under the old checksum, the embedding of another picture would persist
        if hashlib.sha256(data).hexdigest() != checksum:
            return _Prepared(checksum, problem="changed while it was read")
        return _Prepared(checksum, scorer.square(decode_image(data)))
    except BadSample as error:
        return _Prepared(checksum, problem=error.reason)
    except OSError as error:
        return _Prepared(checksum, problem=error.strerror)


def _embed_batch(
    batch: list[_Prepared], scorer: ClipScorer, cache: EmbeddingCache
) -> dict[str, Embedded]:
    """Embed and cache the readable pictures of a batch; return the whole batch by checksum."""
    embedded = {
        picture.checksum: Embedded(picture.checksum, problem=picture.problem) for picture in batch
    }
    squares = {picture.checksum: picture.square for picture in batch if picture.square is not None}
    if squares:
        vectors = scorer.embed_pictures(list(squares.values())).numpy()  # [B, E]
        fresh = dict(zip(squares, vectors, strict=True))
        cache.add(fresh)
        embedded |= {checksum: Embedded(checksum, vector) for checksum, vector in fresh.items()}
    return embedded
