"""Scaling by area with aligned corners, in exact fractions."""

from fractions import Fraction

import numpy as np


def area_by_hand(row, n_out):
    """Average with exact fractions over [i*s, (i+1)*s]; the last value extends beyond the end."""
    n_in = len(row)
    scale = Fraction(n_in - 1, n_out - 1)
    means = []
    for i in range(n_out):
        start, end = i * scale, (i + 1) * scale
        total = Fraction(0)
        pixel = int(start)
        while pixel < end:
            covered = min(end, Fraction(pixel + 1)) - max(start, Fraction(pixel))
            total += covered * int(row[min(pixel, n_in - 1)])
            pixel += 1
        means.append(total / scale)
    return means


def area_matrix(n_in, n_out):
    """The same as a matrix [n_out, n_in]: row i has the weights of output i."""
    units = np.eye(n_in, dtype=int)
    return np.array([[float(mean) for mean in area_by_hand(unit, n_out)] for unit in units]).T
