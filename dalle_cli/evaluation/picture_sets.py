"""The two sides of a comparison: pictures of a data set, and generated ones, as equal squares.

Both sides are cut and scaled alike, in threads, a batch ahead of what reads them. Whatever is bad
is left out and counted. Axis: S side of a square.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from dalle_cli.data.augment import centre_crop
from dalle_cli.data.images import BadSample, Problem, decode_image
from dalle_cli.data.loader import read_sample
from dalle_cli.data.sources import Source
from dalle_cli.scoring.embeddings import prefetch

BATCH_SIZE = 32  # pictures

Crop = Callable[[Image.Image], np.ndarray]


class Square(NamedTuple):
    """A picture, cut to a square uint8 [S, S, 3], and its caption, "" if it has none.

    number  of the sample in its source, or of the file in its list
    """

    number: int
    caption: str
    pixels: np.ndarray


class PictureSet(Protocol):
    """Pictures that can be read again and again, in the same batches."""

    def __len__(self) -> int: ...

    def batches(self) -> Iterator[list[Square]]:
        """Yield the pictures in order, at most BATCH_SIZE together."""
        ...


@dataclass(frozen=True)
class SourcePictures:
    """Samples of a data set, each with the first of its captions.

    crop  to the square that is compared, by default the centred one of a side
    bad   samples that could not be read, as (key, reason)
    """

    source: Source
    indices: np.ndarray
    crop: Crop
    bad: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self) -> Iterator[list[Square]]:
        """Yield the samples that can be read."""
        with ThreadPoolExecutor() as pool:
            indices = self.indices.tolist()
            for batch in prefetch(self.read, indices, pool=pool, batch_size=BATCH_SIZE):
                self.bad.update(item for item in batch if not isinstance(item, Square))
                squares = [item for item in batch if isinstance(item, Square)]
                if squares:
                    yield squares

    def read(self, index: int) -> Square | Problem:
        """Read a sample, or say which one is bad, and why."""
        try:
            sample = read_sample(self.source, index)
            pixels = self.crop(decode_image(sample.image))
        except BadSample as fault:
            return self.source.key(index), fault.reason
        return Square(index, sample.captions[0] if sample.captions else "", pixels)


@dataclass(frozen=True)
class GeneratedPictures:
    """Pictures that a generation job wrote, with their captions."""

    files: Sequence[Path]
    captions: Sequence[str]

    def __len__(self) -> int:
        return len(self.files)

    def batches(self) -> Iterator[list[Square]]:
        """Yield the pictures, as they are."""
        with ThreadPoolExecutor() as pool:
            numbers = range(len(self.files))
            yield from prefetch(self.read, numbers, pool=pool, batch_size=BATCH_SIZE)

    def read(self, number: int) -> Square:
        """Read the picture of a number in the list."""
        with Image.open(self.files[number]) as picture:
            return Square(number, self.captions[number], np.array(picture.convert("RGB")))


def centred_pictures(source: Source, indices: np.ndarray, side: int) -> SourcePictures:
    """Return samples as `generate` would write them: the centred square, scaled by area."""
    return SourcePictures(source, indices, lambda image: centre_crop(image, side))


def stack_squares(squares: Sequence[Square]) -> np.ndarray:
    """Stack the pixels of squares: uint8 [B, S, S, 3]."""
    return np.stack([square.pixels for square in squares])
