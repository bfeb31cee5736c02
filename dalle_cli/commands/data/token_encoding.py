"""Image tokens of crops, for `dalle data encode --dvae`.

Axes: N samples, C crops of a sample, I image positions.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dalle_cli.commands.data.shard_format import CroppedSample
from dalle_cli.data.images import DECODING_VERSION
from dalle_cli.data.preprocessing import EncodingPreprocessing
from dalle_cli.data.sources import Problem, Sample, Source
from dalle_cli.data.token_shards import (
    EncodedSample,
    Encoding,
    Record,
    TokenShard,
    shard_path,
    write_record,
    write_shard,
)
from dalle_cli.loading import dvae_checksum, load_dvae_encoder
from dalle_cli.models.dvae import DVAEEncoder
from dalle_cli.runtime.precision import Precision, apply_precision


@dataclass(frozen=True)
class TokenFormat:
    """Shards of image tokens.

    batch_size  crops that go through the discrete VAE together
    """

    dvae: DVAEEncoder
    encoding: Encoding
    batch_size: int

    @property
    def copies(self) -> int:
        """The number of random crops of each sample."""
        return self.encoding.copies

    def crop(self, sample: Sample, seed: int) -> np.ndarray:
        """Cut all crops of a sample: uint8 [C, H, W, 3]."""
        return EncodingPreprocessing(self.dvae.image_size, self.copies)(sample, seed)

    @torch.inference_mode()
    def encode(self, samples: list[CroppedSample]) -> list[EncodedSample]:
        """Compute the tokens of every crop."""
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

    def bytes_of(self, n_samples: int) -> int:
        """Return the size of the tokens of so many samples."""
        return math.prod(self.encoding.shape(n_samples)) * self.encoding.dtype.itemsize

    def path(self, folder: Path, number: int) -> Path:
        """Return the path of a shard."""
        return shard_path(folder, number)

    def write(
        self, path: Path, samples: list[EncodedSample], *, bad: list[Problem], checksums: np.ndarray
    ) -> None:
        """Write a shard atomically."""
        write_shard(path, self.encoding, samples=samples, bad=bad, checksums=checksums)

    def checksums(self, path: Path) -> np.ndarray:
        """Read the checksums of a shard; raises DalleError if it is none."""
        return TokenShard(path, self.encoding).checksums()

    def write_record(self, folder: Path, n_shards: int, source: Source) -> Record:
        """Seal the shards of a source's samples, which completes the folder."""
        return write_record(
            folder,
            self.encoding,
            n_shards=n_shards,
            problems=source.problems,
            n_lost=source.n_lost,
        )


def token_format(
    dvae_path: Path, *, copies: int, batch_size: int, device: torch.device, precision: Precision
) -> TokenFormat:
    """Load a discrete VAE, to encode pictures with it on a device."""
    dvae = load_dvae_encoder(dvae_path)
    # torch's stubs lack memory_format
    dvae.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    apply_precision(dvae, precision, device)
    encoding = Encoding(
        dvae=dvae_checksum(dvae_path),
        precision=precision,
        grid_size=dvae.grid_size,
        vocab_size=dvae.vocab_size,
        copies=copies,
        decoding=DECODING_VERSION,
    )
    return TokenFormat(dvae, encoding, batch_size)
