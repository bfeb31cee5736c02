"""Cropping and scaling pictures of any size to the square that a model reads.

Ramesh et al. 2021, listings 1 and 2, for DALL-E; Radford et al. 2021 for CLIP. Works on RGB
pictures and returns uint8 arrays [T, T, 3]; every random choice comes from the generator passed in.
Pictures whose short side is below the target are enlarged to it.
"""

import numpy as np
from PIL import Image

from dalle_cli.data.images import ReducedImage
from dalle_cli.data.pictures.area import area_means, area_windows

MAX_ASPECT = 32  # long side / short side

# In the key of cached embeddings: raise it when `clip_square` changes its pixels
CLIP_SQUARE_VERSION = 1


def largest_dvae_side(target: int) -> int:
    """Return the largest side to which `dvae_crop` scales the square."""
    return round(12 / 8 * target)


def largest_transformer_side(target: int) -> int:
    """Return the largest side to which `transformer_crop` scales the square."""
    return round(9 / 8 * target)


def dvae_crop(picture: ReducedImage, target: int, *, rng: np.random.Generator) -> np.ndarray:
    """Crop for the dVAE: a random full-size square, scaled, cropped, flipped half the time.

    The scaled side is 9/8 to 12/8 of the target. The square is never enlarged, except to the target
    itself, a case that listing 1 leaves open.
    """
    side = min(picture.size)
    offsets = [int(rng.integers(slack + 1)) for slack in _slack(picture.size)]
    low, high = min(side, round(9 / 8 * target)), min(side, largest_dvae_side(target))
    scaled = max(target, int(rng.integers(low, high + 1)))

    corner = _random_corner(scaled, target, rng)
    cropped = _cut(picture, target, offsets=offsets, scaled=scaled, corner=corner)
    return cropped[:, ::-1] if rng.random() < 0.5 else cropped


def transformer_crop(picture: ReducedImage, target: int, *, rng: np.random.Generator) -> np.ndarray:
    """Crop for the transformer: a nearly centred square, scaled and cropped, never flipped.

    The scaled side is at most 9/8 of the target.
    """
    offsets = [
        int(rng.integers(3 * d // 8, max(3 * d // 8 + 1, 5 * d // 8))) for d in _slack(picture.size)
    ]
    high = max(target, min(min(picture.size), largest_transformer_side(target)))
    scaled = int(rng.integers(target, high + 1))

    corner = _random_corner(scaled, target, rng)
    return _cut(picture, target, offsets=offsets, scaled=scaled, corner=corner)


def centre_crop(image: Image.Image, target: int) -> np.ndarray:
    """Crop for validation: the centred square, scaled to the target."""
    offsets = [slack // 2 for slack in _slack(image.size)]
    whole = ReducedImage(image, image.size)
    return _cut(whole, target, offsets=offsets, scaled=target, corner=[0, 0])


def clip_crop(image: Image.Image, target: int, *, rng: np.random.Generator) -> np.ndarray:
    """Crop for training CLIP: any square, after scaling the short side to at most 9/8."""
    scaled = _bicubic(image, int(rng.integers(target, max(target, round(9 / 8 * target)) + 1)))
    left, top = (int(rng.integers(side - target + 1)) for side in scaled.size)
    return np.asarray(scaled.crop((left, top, left + target, top + target)))


def clip_square(image: Image.Image, target: int) -> np.ndarray:
    """Crop for a trained CLIP: the short side scaled to the target by bicubic, the centre cut out.

    The centre is where transformers cuts it. OpenAI's preprocessing rounds a half to even, while
    this rounds it down: for one in four lengths of the long side, its crop starts a pixel later.
    """
    scaled = _bicubic(image, target)
    left, top = ((side - target) // 2 for side in scaled.size)
    return np.asarray(scaled.crop((left, top, left + target, top + target)))


def _bicubic(image: Image.Image, short_side: int) -> Image.Image:
    """Scale the short side; the long side keeps its proportion, rounded down.

    Only the middle of a picture beyond MAX_ASPECT is used: scaled as a whole, it might fill the
    memory.
    """
    longest = MAX_ASPECT * min(image.size)
    if max(image.size) > longest:
        left, top = (max(side - longest, 0) // 2 for side in image.size)
        right, bottom = left + min(image.width, longest), top + min(image.height, longest)
        image = image.crop((left, top, right, bottom))

    width, height = (short_side * side // min(image.size) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _slack(size: tuple[int, int]) -> list[int]:
    """Return by how many pixels the width and the height exceed the shorter of the two."""
    return [side - min(size) for side in size]


def _random_corner(scaled: int, target: int, rng: np.random.Generator) -> list[int]:
    """Return where a target begins in a scaled square (across, down)."""
    top, left = (int(offset) for offset in rng.integers(scaled - target + 1, size=2))
    return [left, top]


def _cut(
    picture: ReducedImage, target: int, *, offsets: list[int], scaled: int, corner: list[int]
) -> np.ndarray:
    """Cut a square of the short side's length, scale it by area, and cut the target out of it.

    Only what the target shows is computed.

    offsets  where the square begins in the whole picture (across, down)
    scaled   the side that it is scaled to
    corner   where the target begins in the scaled square (across, down)
    """
    side = min(picture.size)
    if scaled == side and picture.reduction == 1:
        left, top = np.add(offsets, corner).tolist()
        return np.asarray(picture.image.crop((left, top, left + target, top + target)))

    (x, x_weights), (y, y_weights) = (
        area_windows(
            side,
            scaled,
            outputs=range(start, start + target),
            offset=offset,
            reduction=picture.reduction,
        )
        for offset, start in zip(offsets, corner, strict=True)
    )
    left, top = int(x.min()), int(y.min())
    pixels = np.asarray(picture.image.crop((left, top, int(x.max()) + 1, int(y.max()) + 1)))
    return area_means(pixels, rows=(y - top, y_weights), columns=(x - left, x_weights))
