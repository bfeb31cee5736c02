"""Pictures in memory, in batches as they would be read."""

from collections.abc import Iterator, Sequence

import numpy as np

from dalle_cli.evaluation.picture_sets import BATCH_SIZE, Square


class MemoryPictures:
    """A set of pictures uint8 [N, S, S, 3]."""

    def __init__(self, pixels: np.ndarray, captions: Sequence[str] | None = None) -> None:
        self.pixels = pixels
        self.captions = captions or [""] * len(pixels)

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(self) -> Iterator[list[Square]]:
        squares = [
            Square(i, caption, one)
            for i, (caption, one) in enumerate(zip(self.captions, self.pixels, strict=True))
        ]
        for start in range(0, len(squares), BATCH_SIZE):
            yield squares[start : start + BATCH_SIZE]


def random_pictures(n: int, side: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), np.uint8)
