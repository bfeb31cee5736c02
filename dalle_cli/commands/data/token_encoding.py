"""Encoding captioned pictures to image tokens, for `dalle data encode`.

Crops are cut in threads, a batch ahead of the discrete VAE. Axes: N samples, C crops of a sample,
I image positions.
"""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from dalle_cli.data.images import BadSample
from dalle_cli.data.loader import read_sample
from dalle_cli.data.preprocessing import EncodingPreprocessing
from dalle_cli.data.sources import Problem, Sample, Source
from dalle_cli.data.token_shards import EncodedSample
from dalle_cli.models.dvae import DVAEEncoder
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


@dataclass(frozen=True)
class _CroppedSample:
    """A sample's crops uint8 [C, H, W, 3], or the problem that it has instead."""

    key: str
    captions: list[str]
    crops: np.ndarray
    checksum: bytes
    problem: str | None = None


@dataclass(frozen=True)
class TokenEncoder:
    """Encodes samples of a source with a discrete VAE.

    batch_size  samples read ahead, and crops encoded together
    """

    source: Source
    dvae: DVAEEncoder
    preprocessing: EncodingPreprocessing
    batch_size: int

    def encode(
        self, indices: range, advance: Callable[[], None]
    ) -> tuple[list[EncodedSample], list[Problem], np.ndarray]:
        """Encode samples of the source.

        advance  called once for each sample
        returns  the samples, the bad ones as (key, reason), and the checksums of all, uint8 [M, 32]
        """
        samples: list[EncodedSample] = []
        bad: list[Problem] = []
        checksums = b""
        with ThreadPoolExecutor() as pool:
            for batch in prefetch(self._crop, indices, pool=pool, batch_size=self.batch_size):
                bad += [(crop.key, crop.problem) for crop in batch if crop.problem is not None]
                samples += self._encode_batch([crop for crop in batch if crop.problem is None])
                checksums += b"".join(crop.checksum for crop in batch)
                for _ in batch:
                    advance()
        return samples, bad, np.frombuffer(checksums, np.uint8).reshape(-1, 32)

    def _crop(self, index: int) -> _CroppedSample:
        read = read_checked(self.source, index)
        problem = read.problem
        if read.sample is not None:
            try:
                crops = self.preprocessing(read.sample, index)
                return _CroppedSample(read.sample.key, read.sample.captions, crops, read.checksum)
            except BadSample as fault:
                problem = fault.reason
        return _CroppedSample(
            self.source.key(index), [], np.empty(0, np.uint8), read.checksum, problem=problem
        )

    @torch.inference_mode()
    def _encode_batch(self, samples: list[_CroppedSample]) -> list[EncodedSample]:
        """Compute the tokens of every crop; `batch_size` crops at a time go through the encoder."""
        if not samples:
            return []
        device = next(self.dvae.parameters()).device
        crops = torch.from_numpy(np.concatenate([sample.crops for sample in samples]))
        crops = crops.permute(0, 3, 1, 2)  # [N * C, 3, H, W]

        parts = [
            self.dvae.image_tokens(part.to(device).float() / 255).cpu()
            for part in crops.split(self.batch_size)
        ]
        tokens = torch.cat(parts)  # [N * C, I]
        shape = (len(samples), -1, self.dvae.grid_size**2)
        tokens_of_sample = tokens.view(shape).numpy()  # [N, C, I]
        return [
            EncodedSample(sample.key, sample.captions, image_tokens)
            for sample, image_tokens in zip(samples, tokens_of_sample, strict=True)
        ]
