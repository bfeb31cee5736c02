"""Gaussian blur, by which pictures are compared without their details.

Ramesh et al. 2021, section 3.1 and figure 9: the discrete VAE loses fine details, so that FID and
the Inception Score are also taken with both sides blurred. The blur is exact, in float64; Pillow's
is an approximation by boxes. Axes: B batch, S side of a picture.
"""

import numpy as np

RADII = (0, 1, 2, 4, 8)  # of figure 9, in pixels
TRUNCATE = 4  # standard deviations, beyond which a weight is left out


def blur_matrix(side: int, radius: float) -> np.ndarray:
    """Return the matrix [S, S] whose product with a column of pixels is the blurred column.

    radius  the standard deviation of the Gaussian, in pixels, above 0

    At the edges the picture goes on as its mirror image.
    """
    reach = int(TRUNCATE * radius + 0.5)
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / radius) ** 2)

    rows = np.arange(side)[:, None]
    places = (rows + offsets) % (2 * side)  # mirrored, the picture has a period of two sides
    places = np.minimum(places, 2 * side - 1 - places)

    matrix = np.zeros((side, side))
    np.add.at(matrix, (np.broadcast_to(rows, places.shape), places), weights / weights.sum())
    return matrix


def blur(images: np.ndarray, radius: float) -> np.ndarray:
    """Blur channels [..., S, S] by a Gaussian: float64 [..., S, S]; radius 0 changes nothing."""
    channels = images.astype(np.float64)
    if radius == 0:
        return channels
    matrix = blur_matrix(images.shape[-1], radius)
    return matrix @ channels @ matrix.T


def blur_squares(squares: np.ndarray, radius: float) -> np.ndarray:
    """Blur pictures uint8 [B, S, S, 3], rounded to uint8 again."""
    if radius == 0:
        return squares
    blurred = blur(squares.transpose(0, 3, 1, 2), radius)  # [B, 3, S, S]
    levels = np.rint(blurred).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1))  # [B, S, S, 3]
