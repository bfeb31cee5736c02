"""Durations, sizes and counts as people say them, and a row of numbers as a small chart."""

from collections.abc import Sequence
from itertools import pairwise

BLOCKS = "▁▂▃▄▅▆▇█"
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def duration_text(seconds: float) -> str:
    """Format a duration as people say it: "40 s", "12 minutes", "1 h 40 min", "3 days 4 h"."""
    if seconds < 99.5:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} minutes"

    if minutes < 24 * 60:
        hours, rest, small = minutes // 60, minutes % 60, "min"
        large = f"{hours} h"
    else:
        days, rest, small = round(minutes / 60) // 24, round(minutes / 60) % 24, "h"
        large = f"{days} day" if days == 1 else f"{days:,} days"
    return f"{large} {rest} {small}" if rest else large


def size_text(n_bytes: float) -> str:
    """Format a size with three digits: "312 KiB", "1.31 GiB"."""
    unit = 0
    while n_bytes >= 999.5 and unit < len(UNITS) - 1:
        n_bytes /= 1024
        unit += 1
    return f"{_three_digits(n_bytes)} {UNITS[unit]}"


def count_text(n: int) -> str:
    """Format a large count with three digits: "70,593", "4.86 million", "1.31 billion"."""
    for power, name in ((10**9, "billion"), (10**6, "million")):
        if n >= 10**6 and n >= 0.9995 * power:  # of which three digits would be 1,000
            return f"{_three_digits(n / power)} {name}"
    return f"{n:,}"


def sparkline(values: Sequence[float], n_columns: int) -> str:
    """Draw finite numbers as a row of blocks between the lowest and the highest.

    Where there are more numbers than columns, a block shows the mean of several.
    """
    n_blocks = min(len(values), n_columns)
    edges = [len(values) * i // n_blocks for i in range(n_blocks + 1)]
    means = [sum(values[start:end]) / (end - start) for start, end in pairwise(edges)]
    low, high = min(means), max(means)
    levels = ((mean - low) / ((high - low) or 1) for mean in means)
    return "".join(BLOCKS[round(level * (len(BLOCKS) - 1))] for level in levels)


def _three_digits(value: float) -> str:
    digits = 0 if value >= 100 or value == int(value) else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"
