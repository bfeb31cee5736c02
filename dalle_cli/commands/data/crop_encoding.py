"""Encoding captioned pictures, for `dalle data encode`: samples to crops to whatever a model makes.

Crops are cut in threads, a batch ahead of the model. Axes: C crops of a sample, M samples.
"""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, NamedTuple

import numpy as np

from dalle_cli.commands.data.shard_format import CroppedSample, EncodedT, ShardFormat
from dalle_cli.data.images import BadSample
from dalle_cli.data.loader import read_sample
from dalle_cli.data.sources import Problem, Sample, Source
from dalle_cli.scoring.embeddings import prefetch


class CheckedSample(NamedTuple):
    """A sample, or the problem that it has instead, and the checksum of what was read."""

    sample: Sample | None
    problem: str
    checksum: bytes


def read_checked(source: Source, index: int) -> CheckedSample:
    """Read a sample, and hash its captions and its picture."""
    try:
        sample = read_sample(source, index)
    except BadSample as fault:
        return CheckedSample(None, fault.reason, hashlib.sha256(fault.reason.encode()).digest())
    digest = hashlib.sha256(json.dumps(sample.captions).encode() + b"\n")
    digest.update(sample.image)
    return CheckedSample(sample, "", digest.digest())


class EncodedPart(NamedTuple, Generic[EncodedT]):
    """Some samples, encoded: the good ones, the bad ones, and the checksums of all in order."""

    samples: list[EncodedT]
    bad: list[Problem]
    checksums: list[bytes]


@dataclass(frozen=True)
class SampleEncoder(Generic[EncodedT]):
    """Encodes samples of a source; `batch_size` of them are read ahead."""

    source: Source
    shards: ShardFormat[EncodedT]
    batch_size: int

    def encode(self, indices: range, advance: Callable[[], None]) -> EncodedPart[EncodedT]:
        """Encode samples of the source.

        advance  called once for each sample
        """
        part: EncodedPart[EncodedT] = EncodedPart([], [], [])
        with ThreadPoolExecutor() as pool:
            for batch in prefetch(self._crop, indices, pool=pool, batch_size=self.batch_size):
                for crop in batch:
                    if crop.problem is not None:
                        part.bad.append((crop.key, crop.problem))
                good = [crop for crop in batch if crop.problem is None]
                part.samples.extend(self.shards.encode(good) if good else [])
                part.checksums.extend(crop.checksum for crop in batch)
                for _ in batch:
                    advance()
        return part

    def _crop(self, index: int) -> CroppedSample:
        read = read_checked(self.source, index)
        problem = read.problem
        if read.sample is not None:
            try:
                crops = self.shards.crop(read.sample, index)
                return CroppedSample(read.sample.key, read.sample.captions, crops, read.checksum)
            except BadSample as fault:
                problem = fault.reason
        return CroppedSample(
            self.source.key(index), [], np.empty(0, np.uint8), read.checksum, problem=problem
        )
