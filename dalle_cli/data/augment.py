"""Cropping and scaling pictures of any size to the square that a model reads.

Ramesh et al. 2021, listings 1 and 2, for DALL-E; Radford et al. 2021 for CLIP. Works on RGB
pictures and returns uint8 arrays [T, T, 3]; every random choice comes from the generator passed in.
Pictures whose short side is below the target are enlarged to it.
"""

import math

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

    cropped = _random_crop(square, max(target, int(rng.integers(low, high + 1))), target, rng)
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
    return _random_crop(square, int(rng.integers(target, high + 1)), target, rng)


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
    return _area_part(pixels, side, rows=slice(side), columns=slice(side))


def _area_part(pixels: np.ndarray, side: int, *, rows: slice, columns: slice) -> np.ndarray:
    """Return rows and columns of the square that `area_resize` scales, without computing others.

    Sums are formed in one order only, whatever else the machine does: the same everywhere.
    """
    n_in = len(pixels)
    if n_in == side:
        return pixels[rows, columns]
    members, weights = _area_windows(n_in, side)

    means = _weighted_sums(pixels.reshape(n_in, -1), members[rows], weights[rows])
    turned = _swap_axes(means.reshape(-1, n_in, 3))  # [S, H, 3]
    means = _weighted_sums(turned.reshape(n_in, -1), members[columns], weights[columns])
    levels = np.rint(means, out=means).astype(np.uint8)
    return levels.reshape(len(levels), -1, 3).swapaxes(0, 1)  # [H, W, 3]


def _area_windows(n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which inputs each output averages, and with which weights: both [n_out, K]."""
    if n_in == 1:
        return np.zeros((n_out, 1), int), np.ones((n_out, 1), np.float32)
    scale = (n_in - 1) / (n_out - 1) if n_out > 1 else n_in
    edges = np.arange(n_out + 1)[:, None] * scale
    starts, ends = edges[:-1], edges[1:]

    members = starts.astype(int) + np.arange(math.ceil(scale) + 1)  # [n_out, K]
    covered = np.minimum(ends, members + 1) - np.maximum(starts, members)
    weights = (covered.clip(0) / scale).astype(np.float32)
    return np.minimum(members, n_in - 1), weights


def _weighted_sums(values: np.ndarray, members: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sum K rows of values [N, W] for each output: float32 [n_out, W]."""
    shape = len(members), values.shape[1]
    taken = np.empty(shape, values.dtype)
    weighted = np.empty(shape, np.float32)
    sums = np.zeros(shape, np.float32)
    for k in range(members.shape[1]):
        np.take(values, members[:, k], axis=0, out=taken, mode="clip")  # which needs no buffer
        np.multiply(taken, weights[:, k, None], out=weighted)
        np.add(sums, weighted, out=sums)
    return sums


def _swap_axes(pixels: np.ndarray) -> np.ndarray:
    """Swap the first two axes of float32 [H, W, 3] in memory, quickly: as things of 12 bytes."""
    things = pixels.view(np.dtype((np.void, 12)))[..., 0]  # [H, W]
    turned = np.ascontiguousarray(things.T)
    return turned.view(np.float32).reshape(*turned.shape, 3)  # [W, H, 3]


def _slack(image: Image.Image) -> tuple[int, int]:
    """Return by how many pixels the width and the height exceed the shorter of the two."""
    side = min(image.size)
    return image.width - side, image.height - side


def _square(image: Image.Image, offsets: list[int]) -> np.ndarray:
    """Cut the square of the short side's length at the offsets (across, down): uint8 [S, S, 3]."""
    left, top = offsets
    side = min(image.size)
    return np.asarray(image.crop((left, top, left + side, top + side)))


def _random_crop(
    square: np.ndarray, side: int, target: int, rng: np.random.Generator
) -> np.ndarray:
    """Scale a square to a side, of which only the crop is computed."""
    top, left = (int(offset) for offset in rng.integers(side - target + 1, size=2))
    return _area_part(
        square, side, rows=slice(top, top + target), columns=slice(left, left + target)
    )
