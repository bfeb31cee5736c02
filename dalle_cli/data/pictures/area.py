"""Scaling pictures by area with aligned corners, as the published crops do in TensorFlow 1.

From S to T pixels, output i averages the source over [i * s, (i + 1) * s), where s is
(S - 1) / (T - 1); the last pixel extends beyond the edge. Knows nothing of crops or of randomness.
"""

import math

import numpy as np

Windows = tuple[np.ndarray, np.ndarray]  # which pixels each output averages, with which weights
BLOCK = 64  # outputs that are summed together: few enough for the cache of a core


def area_resize(pixels: np.ndarray, side: int) -> np.ndarray:
    """Scale a square uint8 [S, S, 3] to uint8 [side, side, 3]; ties are rounded to even."""
    n_in = len(pixels)
    if n_in == side:
        return pixels
    windows = area_windows(n_in, side, outputs=range(side))
    return area_means(pixels, rows=windows, columns=windows)


def area_windows(
    n_in: int, n_out: int, *, outputs: range, offset: int = 0, reduction: int = 1
) -> Windows:
    """Return the pixels of a line that outputs average, and their weights: both [O, K].

    outputs    which of the n_out
    offset     where the n_in that are scaled begin in the line
    reduction  how many of n_in and offset each pixel of the line stands for
    """
    first, skipped = divmod(offset, reduction)
    if n_in == 1:
        return np.full((len(outputs), 1), first), np.ones((len(outputs), 1), np.float32)
    scale = (n_in - 1) / (n_out - 1) if n_out > 1 else n_in
    width = scale / reduction
    edges = np.arange(outputs.start, outputs.stop + 1)[:, None] * scale
    edges = (skipped + edges) / reduction
    starts, ends = edges[:-1], edges[1:]

    members = starts.astype(int) + np.arange(math.ceil(width) + 1)  # [O, K]
    covered = np.minimum(ends, members + 1) - np.maximum(starts, members)
    weights = (covered.clip(0) / width).astype(np.float32)
    last = (skipped + n_in - 1) // reduction
    return first + np.minimum(members, last), weights


def area_means(pixels: np.ndarray, *, rows: Windows, columns: Windows) -> np.ndarray:
    """Average uint8 [H, W, 3] over the windows of rows and columns: one output for each pair.

    Sums are formed in one order only, whatever else the machine does: the same everywhere.
    """
    height, width = pixels.shape[:2]
    means = _weighted_sums(pixels.reshape(height, -1), *rows)
    turned = _swap_axes(means.reshape(-1, width, 3))
    means = _weighted_sums(turned.reshape(width, -1), *columns)
    levels = np.rint(means, out=means).astype(np.uint8)
    return _swap_axes(levels.reshape(len(levels), -1, 3))


def _weighted_sums(values: np.ndarray, members: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sum K rows of values [N, W] for each output: float32 [n_out, W]."""
    n_out, width = len(members), values.shape[1]
    taken = np.empty((BLOCK, width), values.dtype)
    weighted = np.empty((BLOCK, width), np.float32)
    sums = np.zeros((n_out, width), np.float32)
    for start in range(0, n_out, BLOCK):
        part = slice(start, start + BLOCK)
        n = len(members[part])
        for k in range(members.shape[1]):
            np.take(values, members[part, k], axis=0, out=taken[:n], mode="clip")  # no buffer
            np.multiply(taken[:n], weights[part, k, None], out=weighted[:n])
            sums[part] += weighted[:n]
    return sums


def _swap_axes(pixels: np.ndarray) -> np.ndarray:
    """Swap the first two axes of [H, W, 3] in memory, quickly: as things of three values."""
    things = pixels.view(np.dtype((np.void, 3 * pixels.itemsize)))[..., 0]  # [H, W]
    turned = np.empty(things.shape[::-1], things.dtype)
    for start in range(0, len(turned), BLOCK):
        turned[start : start + BLOCK] = things[:, start : start + BLOCK].T
    return turned.view(pixels.dtype).reshape(*turned.shape, 3)  # [W, H, 3]
