"""What copies of a picture are told by: the interface of every method, and a data set described.

A picture becomes vectors, by which copies of it are near one another. A picture of the test set is
looked at through windows, which a copy in the training set may have been cut to, and one of the
training set as it is. Axes:

    B pictures    P parts of a picture that are compared    E width of a vector
    W windows of a test picture    V views of a training picture, mirrored ones among them
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from PIL import Image

from dalle_cli.data.images import BadSample, Problem, decode_image
from dalle_cli.data.loader import read_sample
from dalle_cli.data.sources import Source
from dalle_cli.errors import printable
from dalle_cli.scoring.embeddings import prefetch

Views = Callable[[Image.Image], np.ndarray]


class Descriptor(Protocol):
    """A method of telling copies.

    method     its name, with all that distances depend on
    unit       of distances, in words
    threshold  the distance up to which pictures count as copies, by default
    """

    method: str
    unit: str
    threshold: float

    def test_views(self, picture: Image.Image) -> np.ndarray:
        """Prepare a picture of the test set; called in threads."""
        ...

    def training_views(self, picture: Image.Image) -> np.ndarray:
        """Prepare a picture of the training set; called in threads."""
        ...

    def vectors(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """Compute the vectors of pictures of one set: [B, P, W, E] or [B, P, V, E]."""
        ...

    def distances(self, products: np.ndarray) -> np.ndarray:
        """Turn inner products of vectors, of any shape, into distances; the larger, the nearer."""
        ...


@dataclass(frozen=True)
class DescribedBatch:
    """Pictures of a source, by their numbers, with their vectors [B, P, W or V, E]."""

    indices: list[int]
    vectors: np.ndarray
    bad: list[Problem]


@dataclass(frozen=True)
class _Prepared:
    """A picture's views, or the problem that it has instead."""

    index: int
    views: np.ndarray | None = None
    problem: str = ""


def describe_source(
    source: Source,
    descriptor: Descriptor,
    views: Views,
    *,
    batch_size: int,
    advance: Callable[[], None],
) -> Iterator[DescribedBatch]:
    """Yield the vectors of the pictures that can be read, and the others' problems, in order.

    views    `test_views` or `training_views` of the descriptor
    advance  called once for each picture
    """
    prepare = partial(_prepare, source, views)
    with ThreadPoolExecutor() as pool:
        for batch in prefetch(prepare, range(len(source)), pool=pool, batch_size=batch_size):
            prepared = [picture.views for picture in batch if picture.views is not None]
            bad = [
                (printable(source.key(picture.index)), picture.problem)
                for picture in batch
                if picture.views is None
            ]
            indices = [picture.index for picture in batch if picture.views is not None]
            vectors = descriptor.vectors(prepared) if prepared else np.empty(0, np.float32)
            yield DescribedBatch(indices, vectors, bad)
            for _ in batch:
                advance()


def _prepare(source: Source, views: Views, index: int) -> _Prepared:
    try:
        return _Prepared(index, views(decode_image(read_sample(source, index).image)))
    except BadSample as fault:
        return _Prepared(index, problem=fault.reason)
