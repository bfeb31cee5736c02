"""From a picture of any size to the square a model reads (Ramesh et al. 2021, listings 1 and 2; Radford et al. 2021).

Works on RGB pictures and returns uint8 arrays [T, T, 3]; every random choice comes from the generator passed in.
Pictures whose short side is below the target are enlarged to it.
"""

import numpy as np
from PIL import Image

LONGEST = 32  # times as long as wide
CLIP_SQUARE_VERSION = (
    1  # embeddings are kept by it: raise it when `clip_square` or `decode_image` gives other pixels
)


def dvae_crop(image: Image.Image, target: int, rng: np.random.Generator) -> np.ndarray:
    """Crop for the dVAE: any full square, scaled to 9/8 to 12/8 of the target, cropped, flipped half the time.

    A square is not enlarged, but to the target, where listing 1 has no answer.
    """
    square = _square(image, [int(rng.integers(slack + 1)) for slack in _slack(image)])
    side = square.shape[0]
    low, high = min(side, round(9 / 8 * target)), min(side, round(12 / 8 * target))
    cropped = _random_crop(
        area_resize(square, max(target, int(rng.integers(low, high + 1)))), target, rng
    )
    return cropped[:, ::-1] if rng.random() < 0.5 else cropped


def transformer_crop(image: Image.Image, target: int, rng: np.random.Generator) -> np.ndarray:
    """Crop for the transformer: a nearly centred square, scaled to at most 9/8, cropped; never flipped."""
    offsets = [
        int(rng.integers(3 * d // 8, max(3 * d // 8 + 1, 5 * d // 8))) for d in _slack(image)
    ]
    square = _square(image, offsets)
    high = max(target, min(square.shape[0], round(9 / 8 * target)))
    return _random_crop(area_resize(square, int(rng.integers(target, high + 1))), target, rng)


def centre_crop(image: Image.Image, target: int) -> np.ndarray:
    """Crop for validation: the centred square, scaled to the target."""
    return area_resize(_square(image, [slack // 2 for slack in _slack(image)]), target)


def clip_crop(image: Image.Image, target: int, rng: np.random.Generator) -> np.ndarray:
    """Crop for training CLIP: any square of the picture, whose short side is first scaled to at most 9/8."""
    scaled = _bicubic(image, int(rng.integers(target, max(target, round(9 / 8 * target)) + 1)))
    left, top = (int(rng.integers(side - target + 1)) for side in scaled.size)
    return np.asarray(scaled.crop((left, top, left + target, top + target)))


def clip_square(image: Image.Image, target: int) -> np.ndarray:
    """Prepare for a trained CLIP: the short side scaled to the target by bicubic, the centre cut out.

    The centre is where transformers cuts it. OpenAI's preprocessing rounds a half to even, where this rounds it down:
    of four lengths of the long side, its cut starts a pixel later in one.
    """
    scaled = _bicubic(image, target)
    left, top = ((side - target) // 2 for side in scaled.size)
    return np.asarray(scaled.crop((left, top, left + target, top + target)))


def _bicubic(image: Image.Image, short_side: int) -> Image.Image:
    """Scale the short side; the long one keeps its proportion, rounded down.

    Of a picture longer than any that people look at, only the middle is taken: scaled, it might fill the memory.
    """
    longest = LONGEST * min(image.size)
    if max(image.size) > longest:
        left, top = (max(side - longest, 0) // 2 for side in image.size)
        image = image.crop(
            (left, top, left + min(image.width, longest), top + min(image.height, longest))
        )
    width, height = (short_side * side // min(image.size) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def area_resize(pixels: np.ndarray, side: int) -> np.ndarray:
    """Scale a square uint8 [S, S, 3] to uint8 [side, side, 3] by area, corners aligned, rounding ties to even.

    The published listings call TensorFlow 1's resize with AREA and align_corners: output i averages the source over
    [i * s, (i + 1) * s] with s = (S - 1) / (side - 1), and what lies beyond the last pixel repeats it.
    """
    if len(pixels) == side:
        return pixels
    rows = _area_means(pixels, side)  # [side, S, 3]
    columns = _area_means(rows.swapaxes(0, 1), side).swapaxes(0, 1)  # [side, side, 3]
    return np.rint(columns.clip(0, 255)).astype(np.uint8)


def _area_means(values: np.ndarray, n_out: int) -> np.ndarray:
    """Average the first axis of values over n_out equal windows, by differences of its integral: float64."""
    n_in = len(values)
    scale = (n_in - 1) / (n_out - 1) if n_out > 1 else n_in
    if scale == 0:
        return np.repeat(values, n_out, axis=0).astype(np.float64)
    edges = np.arange(n_out + 1) * scale
    whole = np.minimum(edges.astype(int), n_in - 1)
    starts, place = np.unique(whole, return_inverse=True)
    integral = np.zeros((len(starts), *values.shape[1:]))
    if len(starts) > 1:
        pieces = np.add.reduceat(values[: starts[-1]], starts[:-1], axis=0, dtype=np.float64)
        integral[1:] = pieces.cumsum(axis=0)
    return np.diff(integral[place] + (edges - whole)[:, None, None] * values[whole], axis=0) / scale


def _slack(image: Image.Image) -> tuple[int, int]:
    """How much longer than the shorter side the picture is: across, down."""
    side = min(image.size)
    return image.width - side, image.height - side


def _square(image: Image.Image, offsets: list[int]) -> np.ndarray:
    """Cut the square of the short side's length at an offset (across, down): uint8 [S, S, 3]."""
    left, top = offsets
    side = min(image.size)
    return np.asarray(image.crop((left, top, left + side, top + side)))


def _random_crop(pixels: np.ndarray, target: int, rng: np.random.Generator) -> np.ndarray:
    top, left = rng.integers(len(pixels) - target + 1, size=2)
    return pixels[top : top + target, left : left + target]
