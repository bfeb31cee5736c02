"""Copies told by a perceptual hash: the signs of a picture's lowest frequencies.

A hash survives another size and another encoding, but hardly a crop: it is of the whole picture. So
a test picture is hashed through many windows, one of which is nearly the crop. A training picture
that was cut to a window of the test picture is as a whole like that window. A test picture that was
cut from a training picture still shows the middle of it, wherever it was cut, and the middle of the
training picture is like a window of the test picture. Both hold for crops that keep four fifths of
each side or more. Mirrored pictures are found by mirroring those of the training set.

Axes: P = 2 parts, the whole and the middle of the training picture; W windows; V = 2 views, as they
are and mirrored; E bits.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from dalle_cli.errors import DalleError

HASH_SIZE = 12  # frequencies in each direction; more tell pictures apart, but hardly bear a shift
BITS = HASH_SIZE**2
THRESHOLD = 30.0  # bits that differ; see docs/data.md for what was measured
PIXELS = 4 * HASH_SIZE  # on a side, of what is hashed
SMALL = 128  # pixels on a side, from which windows are cut

# Windows begin and end at multiples of 1/20 of the side: the nearest one to a crop is off by 1/40
# at most. The middle is what remains of the side under every crop.
STEPS, KEPT_STEPS = 20, 16
CUT_STEPS = STEPS - KEPT_STEPS

Interval = tuple[float, float]  # of a side, from 0 to 1

_CROPS = [
    (start, end)
    for start in range(CUT_STEPS + 1)
    for end in range(KEPT_STEPS, STEPS + 1)
    if end - start >= KEPT_STEPS
]
WINDOWS: list[Interval] = [(start / STEPS, end / STEPS) for start, end in _CROPS]
# Where the middle of the whole lies in each crop of it
MIDDLES: list[Interval] = [
    ((CUT_STEPS - start) / (end - start), (KEPT_STEPS - start) / (end - start))
    for start, end in _CROPS
]
WHOLE: Interval = (0.0, 1.0)
MIDDLE: Interval = (CUT_STEPS / STEPS, KEPT_STEPS / STEPS)


class HashDescriptor:
    """Perceptual hashes of windows, as vectors of bits 1 and -1."""

    unit = f"of {BITS} bits"
    threshold = THRESHOLD

    def __init__(self) -> None:
        """Load the library; raises DalleError if it is missing."""
        try:
            import imagehash
        except ImportError:
            raise DalleError(
                "pictures can't be compared by their hashes: the library imagehash is missing",
                "`pip install imagehash`, or compare them by a CLIP: `--clip CLIP`",
            ) from None
        self._phash = imagehash.phash
        self.method = f"imagehash {imagehash.__version__}, phash of {BITS} bits"

    def test_views(self, picture: Image.Image) -> np.ndarray:
        """Hash every window: int8 [P, W, E]."""
        small = _small(picture)
        return np.stack(
            [
                [self._bits(small, across, down) for across in intervals for down in intervals]
                for intervals in (WINDOWS, MIDDLES)
            ]
        )

    def training_views(self, picture: Image.Image) -> np.ndarray:
        """Hash the whole and the middle, each of them mirrored as well: int8 [P, V, E]."""
        small = _small(picture)
        mirrored = ImageOps.mirror(small)
        return np.stack(
            [
                [self._bits(view, part, part) for view in (small, mirrored)]
                for part in (WHOLE, MIDDLE)
            ]
        )

    def vectors(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """Stack the bits of pictures: int8 [B, P, W or V, E]."""
        return np.stack(views)

    def distances(self, products: np.ndarray) -> np.ndarray:
        """Return how many bits differ: a product of bits is as many as agree, less these."""
        return (BITS - products) / 2

    def _bits(self, small: Image.Image, across: Interval, down: Interval) -> np.ndarray:
        """Hash a window: int8 [E], 1 or -1."""
        box = (SMALL * across[0], SMALL * down[0], SMALL * across[1], SMALL * down[1])
        window = small.resize((PIXELS, PIXELS), Image.Resampling.LANCZOS, box=box)
        bits = self._phash(window, hash_size=HASH_SIZE, highfreq_factor=PIXELS // HASH_SIZE).hash
        return np.where(bits.reshape(BITS), 1, -1).astype(np.int8)


def _small(picture: Image.Image) -> Image.Image:
    """Scale a picture to a small grey square; a hash knows neither colours nor proportions."""
    return picture.convert("L").resize((SMALL, SMALL), Image.Resampling.LANCZOS)
