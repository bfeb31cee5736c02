"""How much is copied: the training picture nearest to each generated one, by pixels or by a CLIP.

Held-out pictures, which cannot be copies, are the measure: a generated picture counts as close if
it is nearer to a training picture than 99 % of held-out pictures are. Axes: N pictures compared,
M training pictures of a batch, D width of what they are compared by, S side of a picture.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from PIL import Image

from dalle_cli.data.images import to_png
from dalle_cli.data.pictures.area import area_resize
from dalle_cli.evaluation.figures.distances import squared_distances
from dalle_cli.evaluation.figures.sample_figures import embed_squares
from dalle_cli.evaluation.picture_sets import PictureSet, Square
from dalle_cli.scoring.clip_scorer import ClipScorer
from dalle_cli.viz import labelled_grid

PIXEL_SIDE = 32  # to which pictures are scaled for the comparison by pixels
CLOSE_SHARE = 0.01  # of held-out pictures, which are nearer to a training picture
MOST_COMPARED = 5000  # of each side: features of more would fill the memory
BLOCK_SIZE = 256  # training pictures that are compared at once
N_SHOWN = 8  # of the closest, beside their nearest training pictures
BY_PIXELS, BY_CLIP = "pixel_distance", "clip_distance"

Advance = Callable[[], None]
Describe = Callable[[list[Square]], np.ndarray]  # squares to features [B, D]


@dataclass
class Nearest:
    """For each of N pictures, the nearest of the training pictures seen so far.

    squared  distances [N]    numbers  of the training pictures in their source, int64 [N]
    """

    features: np.ndarray
    squared: np.ndarray = field(init=False)
    numbers: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.features)
        self.features = self.features.astype(np.float64)  # once, not for every batch
        self.squared, self.numbers = np.full(n, np.inf), np.full(n, -1)

    def see(self, features: np.ndarray, numbers: np.ndarray) -> None:
        """Compare with training pictures: their features [M, D] and their numbers [M]."""
        squared = squared_distances(self.features, features)  # [N, M]
        best = squared.argmin(axis=1)
        nearest = squared[np.arange(len(squared)), best]

        is_nearer = nearest < self.squared
        self.squared = np.where(is_nearer, nearest, self.squared)
        self.numbers = np.where(is_nearer, numbers[best], self.numbers)


@dataclass(frozen=True)
class NearestPictures:
    """The nearest training pictures of generated and of held-out pictures, by one description."""

    generated: Nearest
    held_out: Nearest

    @property
    def close_share(self) -> float:
        """The share of generated pictures that are close; see the module."""
        limit = np.quantile(self.held_out.squared, CLOSE_SHARE)
        return float((self.generated.squared < limit).mean())


def find_nearest(
    generated: PictureSet,
    held_out: PictureSet,
    training: PictureSet,
    *,
    scorer: ClipScorer | None,
    advance: Advance,
) -> dict[str, NearestPictures]:
    """Find the nearest training picture of every other one, by pixels and, if given, by a CLIP.

    advance  called once for each picture of the three sets
    """
    describe: dict[str, Describe] = {BY_PIXELS: small_pixels}
    if scorer is not None:
        describe[BY_CLIP] = partial(_clip_features, scorer)

    nearest = {
        name: NearestPictures(Nearest(of_generated), Nearest(of_held_out))
        for name, of_generated, of_held_out in zip(
            describe,
            _features(generated, describe, advance),
            _features(held_out, describe, advance),
            strict=True,
        )
    }
    for block in _blocks(training, advance):
        numbers = np.array([square.number for square in block])
        for name, found in nearest.items():
            features = describe[name](block)
            found.generated.see(features, numbers)
            found.held_out.see(features, numbers)
    return nearest


def copy_figures(nearest: dict[str, NearestPictures]) -> dict[str, float]:
    """Return median distances to the nearest training picture, and the share that is close."""
    figures: dict[str, float] = {}
    for name, found in nearest.items():
        scale = _SCALES[name]
        figures |= {
            f"nearest/{name}": float(np.median(scale(found.generated.squared))),
            f"nearest/{name}_of_data": float(np.median(scale(found.held_out.squared))),
            f"nearest/close_by_{name}": found.close_share,
        }
    return figures


def closest_pictures(
    found: NearestPictures,
    read_generated: Callable[[int], Image.Image],
    read_training: Callable[[int], Image.Image],
) -> bytes:
    """Return a PNG of the generated pictures that are closest, each beside its nearest one."""
    closest = np.argsort(found.generated.squared, kind="stable")[:N_SHOWN].tolist()
    pairs = [[read_generated(i), read_training(int(found.generated.numbers[i]))] for i in closest]
    columns = ("generated", "nearest")
    return to_png(labelled_grid([("", pair) for pair in pairs], columns=columns))


def small_pixels(squares: list[Square]) -> np.ndarray:
    """Return the pixels of squares in [0, 1], scaled to one side: fp32 [B, D]."""
    rows = [area_resize(square.pixels, PIXEL_SIDE).reshape(-1) for square in squares]
    return np.stack(rows).astype(np.float32) / 255


def _blocks(pictures: PictureSet, advance: Advance) -> Iterator[list[Square]]:
    """Yield pictures in fewer and larger batches, so that most of the work is matrix products."""
    block: list[Square] = []
    for squares in pictures.batches():
        block += squares
        if len(block) >= BLOCK_SIZE:
            yield block
            block = []
        for _ in squares:
            advance()
    if block:
        yield block


def _clip_features(scorer: ClipScorer, squares: list[Square]) -> np.ndarray:
    return embed_squares(scorer, squares).numpy()


def _features(
    pictures: PictureSet, describe: dict[str, Describe], advance: Advance
) -> Iterator[np.ndarray]:
    """Yield the features of all pictures, for each description in turn."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in describe}
    for squares in pictures.batches():
        for name, features_of in describe.items():
            parts[name].append(features_of(squares))
        for _ in squares:
            advance()
    for name in describe:
        yield np.concatenate(parts[name])


_SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    # of 3 colours, PIXEL_SIDE**2 each
    BY_PIXELS: lambda squared: np.sqrt(squared / (3 * PIXEL_SIDE**2)),
    BY_CLIP: lambda squared: squared / 2,  # 1 - cos of unit vectors
}
