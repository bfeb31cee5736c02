"""The split into training and validation data, decided by the keys of the samples alone.

It needs no seed, so that all models of a data set and `evaluate` agree; and a sample stays on its
side when data are added.
"""

import hashlib
import math

import numpy as np

from dalle_cli.data.sources.source import Source, key_bytes
from dalle_cli.errors import DalleError, printable


def validation_split(source: Source, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Split into indices to train on and indices held out, both int64, ascending and never empty.

    A sample is held out if the first 64 bits of the SHA-256 of its key, as a fraction of 2**64, are
    below `share`; equal keys stay together. If that leaves a side empty, the smallest hash is held
    out or the largest trained on. Raises DalleError if all keys are equal.
    """
    hashes = np.array([_key_hash(source.key(index)) for index in range(len(source))], np.uint64)
    smallest, largest = int(hashes.min()), int(hashes.max())
    if smallest == largest:
        raise DalleError(
            f"one sample is too few for training and validation: {printable(source.name)}",
            "add pictures, or give others for validation with `--valid`",
        )

    threshold = min(max(math.ceil(share * 2**64), smallest + 1), largest)
    is_held_out = hashes < threshold
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


def _key_hash(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key_bytes(key)).digest()[:8], "big")
