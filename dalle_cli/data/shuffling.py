"""Which sample stands at which place of a run: a pure function of the seed, so that there is no state to save.

Position p of a run is place p mod N of epoch p div N. An epoch's order is computed place by place, never as a list of N:
blocks of consecutive samples are permuted, then samples inside windows of 16 blocks, so that disks read nearly
sequentially. A set smaller than a window is permuted whole.
"""

import hashlib

BLOCKS_IN_WINDOW = 16


def derive_seed(*parts: int | str) -> int:
    """Hash its arguments to 63 bits: the seed of everything that must not depend on anything else."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def permute(i: int, n: int, key: int) -> int:
    """Say where a pseudo-random permutation of range(n), chosen by key, sends i.

    A four-round Feistel network over the next even power of two, walked until it falls inside the range.
    """
    if not 0 <= i < n:
        raise ValueError(f"place {i} is outside range({n})")
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


def sample_at(position: int, n_samples: int, seed: int, block: int) -> int:
    """Name the sample, in range(n_samples), that stands at a position of a run.

    Each epoch starts its blocks at another sample, so that the short block at the end is never the same one.
    """
    epoch, place = divmod(position, n_samples)
    window = block * BLOCKS_IN_WINDOW
    if n_samples <= window:
        return permute(place, n_samples, derive_seed(seed, epoch, "whole"))
    first = place - place % window
    place = first + permute(
        place - first, min(window, n_samples - first), derive_seed(seed, epoch, "window", first)
    )
    n_blocks = n_samples // block
    if place < n_blocks * block:
        place = (
            permute(place // block, n_blocks, derive_seed(seed, epoch, "blocks")) * block
            + place % block
        )
    return (place + derive_seed(seed, epoch, "start")) % n_samples
