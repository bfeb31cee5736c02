"""Cropping and scaling pictures of any size to the square that a model reads.

Ramesh et al. 2021, listings 1 and 2, for DALL-E; Radford et al. 2021 for CLIP. Works on RGB
pictures and returns uint8 arrays [T, T, 3]; every random choice comes from the generator passed in.
Pictures whose short side is below the target are enlarged to it.
"""

import numpy as np
from PIL import Image

MAX_ASPECT = 32  # long side / short side

# In the key of cached embeddings: raise it when `clip_square` changes its pixels
CLIP_SQUARE_VERSION = 1


def dvae_crop(image: Image.Image, target: int, *, rng: np.random.Generator) -> np.ndarray:
    """Crop for the dVAE: a random full-size square, scaled, cropped, flipped half the time.

    The scaled side is 9/8 to 12/8 of the target. The square is never enlarged, except to the target
    itself, a case that listing 1 leaves open.
    """
    square = _square(image, [int(rng.integers(slack + 1)) for slack in _slack(image)])
    side = square.shape[0]
    low, high = min(side, round(9 / 8 * target)), min(side, round(12 / 8 * target))

    scaled = area_resize(square, max(target, int(rng.integers(low, high + 1))))
    cropped = _random_crop(scaled, target, rng)
    return cropped[:, ::-1] if rng.random() < 0.5 else cropped


def transformer_crop(image: Image.Image, target: int, *, rng: np.random.Generator) -> np.ndarray:
    """Crop for the transformer: a nearly centred square, scaled and cropped, never flipped.

    The scaled side is at most 9/8 of the target.
    """
    offsets = [
        int(rng.integers(3 * d // 8, max(3 * d // 8 + 1, 5 * d // 8))) for d in _slack(image)
    ]
    square = _square(image, offsets)
    high = max(target, min(square.shape[0], round(9 / 8 * target)))
    return _random_crop(area_resize(square, int(rng.integers(target, high + 1))), target, rng)


def centre_crop(image: Image.Image, target: int) -> np.ndarray:
    """Crop for validation: the centred square, scaled to the target."""
    return area_resize(_square(image, [slack // 2 for slack in _slack(image)]), target)


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


def area_resize(pixels: np.ndarray, side: int) -> np.ndarray:
    """Scale a square uint8 [S, S, 3] to uint8 [side, side, 3] by area, with aligned corners.

    Ties are rounded to even. The published listings call TensorFlow 1's resize with AREA and
    align_corners: output i averages the source over [i * s, (i + 1) * s], where s is
    (S - 1) / (side - 1) and the last pixel extends beyond the edge.
    """
    if len(pixels) == side:
        return pixels
    rows = _area_means(pixels, side)  # [side, S, 3]
    columns = _area_means(rows.swapaxes(0, 1), side).swapaxes(0, 1)  # [side, side, 3]
    return np.rint(columns.clip(0, 255)).astype(np.uint8)


def _area_means(values: np.ndarray, n_out: int) -> np.ndarray:
    """Average the first axis over n_out equal windows, by differences of its integral: float64."""
    n_in = len(values)
    scale = (n_in - 1) / (n_out - 1) if n_out > 1 else n_in
    if scale == 0:
        return np.repeat(values, n_out, axis=0).astype(np.float64)

    edges = np.arange(n_out + 1) * scale
    whole = np.minimum(edges.astype(int), n_in - 1)
    starts, start_of_edge = np.unique(whole, return_inverse=True)

    # The integral up to each distinct whole edge; the fractions are added below
    integral = np.zeros((len(starts), *values.shape[1:]))
    if len(starts) > 1:
        pieces = np.add.reduceat(values[: starts[-1]], starts[:-1], axis=0, dtype=np.float64)
        integral[1:] = pieces.cumsum(axis=0)

    fractions = (edges - whole)[:, None, None] * values[whole]
    return np.diff(integral[start_of_edge] + fractions, axis=0) / scale


def _slack(image: Image.Image) -> tuple[int, int]:
    """Return by how many pixels the width and the height exceed the shorter of the two."""
    side = min(image.size)
    return image.width - side, image.height - side


def _square(image: Image.Image, offsets: list[int]) -> np.ndarray:
    """Cut the square of the short side's length at the offsets (across, down): uint8 [S, S, 3]."""
    left, top = offsets
    side = min(image.size)
    return np.asarray(image.crop((left, top, left + side, top + side)))


def _random_crop(pixels: np.ndarray, target: int, rng: np.random.Generator) -> np.ndarray:
    top, left = rng.integers(len(pixels) - target + 1, size=2)
    return pixels[top : top + target, left : left + target]
