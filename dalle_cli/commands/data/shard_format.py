"""What is made of captioned pictures by `dalle data encode`, and how it is written to shards.

Axes: C crops of a sample, M samples.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from dalle_cli.data.sources import Problem, Sample, Source
from dalle_cli.data.token_shards import SealedFolder

EncodedT = TypeVar("EncodedT")


@dataclass(frozen=True)
class CroppedSample:
    """A sample's crops uint8 [C, H, W, 3], or the problem that it has instead."""

    key: str
    captions: list[str]
    crops: np.ndarray
    checksum: bytes
    problem: str | None = None


class ShardFormat(Protocol[EncodedT]):
    """What is made of samples, and how it is written to a folder."""

    @property
    def copies(self) -> int:
        """The number of random crops of each sample, in addition to the centred one."""
        ...

    def crop(self, sample: Sample, seed: int) -> np.ndarray:
        """Cut all crops of a sample: uint8 [C, H, W, 3]."""
        ...

    def encode(self, samples: list[CroppedSample]) -> list[EncodedT]:
        """Encode the crops and captions of some samples, at least one."""
        ...

    def bytes_of(self, n_samples: int) -> int:
        """Estimate the size of so many samples."""
        ...

    def path(self, folder: Path, number: int) -> Path:
        """Return the path of a shard."""
        ...

    def write(
        self, path: Path, samples: list[EncodedT], *, bad: list[Problem], checksums: np.ndarray
    ) -> None:
        """Write a shard atomically; checksums of all samples, bad ones included, uint8 [M, 32]."""
        ...

    def checksums(self, path: Path) -> np.ndarray:
        """Read the checksums of a shard; raises DalleError if it is none."""
        ...

    def write_record(self, folder: Path, n_shards: int, source: Source) -> SealedFolder:
        """Seal the shards of a source's samples, which completes the folder.

        Raises DalleError if they hold no sample.
        """
        ...
