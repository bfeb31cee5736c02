"""The published rules for a gradient scale, one number at a time.

Ramesh et al. 2021, appendix D.
"""

import math

WINDOW = 125


def scales_by_hand(start: float, overflows: list[bool], n_replicas: int) -> list[float]:
    """Return the value of a scale after each update, by the published rules."""
    scale, last_division, scales = start, -math.inf, []
    for update, has_overflowed in enumerate(overflows):
        if not has_overflowed:
            scale *= 2 ** (1 / 1000)
        elif update - last_division >= WINDOW:
            scale /= math.sqrt(2)
            last_division = update
        scale = min(max(scale, n_replicas * 2.0**7), n_replicas * 2.0**24)
        scales.append(scale)
    return scales
