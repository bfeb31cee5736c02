"""The order of samples in a run: a pure function of the seed, so that no state is saved.

Position p of a run is position p mod N of epoch p div N. An epoch's order is computed position by
position, never as a list of N: blocks of consecutive samples are permuted, then samples inside
windows of 16 blocks, so that disks read nearly sequentially. A data set smaller than a window is
permuted as a whole.

Several data sets are streams, each with epochs of its own. Which stream a position draws from, and
how often it has been drawn from before, follow from the position and the shares alone.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

BLOCKS_IN_WINDOW = 16


def derive_seed(*parts: int | str) -> int:
    """Hash the arguments to a seed of 63 bits, independent of the seeds of any other arguments."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def permute(i: int, n: int, *, key: int) -> int:
    """Return the image of i under a pseudo-random permutation of range(n), chosen by the key.

    A four-round Feistel network over the next even power of two, walked until the result falls
    inside the range. Raises ValueError if i is outside range(n).
    """
    if not 0 <= i < n:
        raise ValueError(f"position {i} is outside range({n})")

    half_bits = max((n - 1).bit_length() + 1, 2) // 2
    half_mask = (1 << half_bits) - 1
    while True:
        left, right = i >> half_bits, i & half_mask
        for round_number in range(4):
            left, right = right, left ^ (_scramble(right, key, round_number) & half_mask)
        i = left << half_bits | right
        if i < n:
            return i


def _scramble(value: int, key: int, round_number: int) -> int:
    """Mix 64 bits thoroughly (the finaliser of splitmix64)."""
    z = (value + key + (round_number + 1) * 0x9E3779B97F4A7C15) & (1 << 64) - 1
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
    z = (z ^ z >> 27) * 0x94D049BB133111EB & (1 << 64) - 1
    return z ^ z >> 31


def sample_at(position: int, n_samples: int, *, seed: int, block: int) -> int:
    """Return the sample, in range(n_samples), at a position of a run.

    Each epoch starts its blocks at another sample, so that the short block at the end varies.
    """
    epoch, i = divmod(position, n_samples)
    window = block * BLOCKS_IN_WINDOW
    if n_samples <= window:
        return permute(i, n_samples, key=derive_seed(seed, epoch, "whole"))

    start = i - i % window
    length = min(window, n_samples - start)
    i = start + permute(i - start, length, key=derive_seed(seed, epoch, "window", start))

    n_blocks = n_samples // block
    if i < n_blocks * block:
        key = derive_seed(seed, epoch, "blocks")
        i = permute(i // block, n_blocks, key=key) * block + i % block

    return (i + derive_seed(seed, epoch, "start")) % n_samples


class Stream(NamedTuple):
    """A data set among others: the number of its samples, and its share of all draws."""

    n_samples: int
    share: Fraction


def stream_at(position: int, shares: Sequence[Fraction]) -> tuple[int, int]:
    """Return the stream that a position draws from, and the position within that stream.

    The shares sum to 1. Of the first p positions, floor(p * share) draw from the first stream; the
    others are divided among the rest in the same way.
    """
    left = Fraction(1)
    for stream, share in enumerate(shares):
        if not share:
            continue
        part = share / left
        before, after = int(position * part), int((position + 1) * part)
        if after > before:
            return stream, before
        position -= before
        left -= share
    raise ValueError(f"shares must sum to 1: {', '.join(map(str, shares))}")


@dataclass(frozen=True)
class SampleOrder:
    """The order of the samples of one stream or several, numbered stream after stream."""

    streams: Sequence[Stream]
    seed: int
    block: int

    def candidates(self, position: int) -> Iterator[int]:
        """Yield the sample at a position, then those that may replace it if it is bad.

        These are the samples that follow in the epoch of its stream.
        """
        stream, place = stream_at(position, [share for _, share in self.streams])
        n_samples = self.streams[stream].n_samples
        first = sum(n for n, _ in self.streams[:stream])
        # a single data set is in the same order as it was before there were streams
        seed = self.seed if len(self.streams) == 1 else derive_seed(self.seed, "stream", stream)

        epoch_start = place - place % n_samples
        for offset in range(n_samples):
            candidate = epoch_start + (place + offset - epoch_start) % n_samples
            yield first + sample_at(candidate, n_samples, seed=seed, block=self.block)
