"""Encoding captioned pictures to image tokens, for `dalle data encode`.

Crops are cut in threads, a batch ahead of the discrete VAE. Axes: N samples, C crops of a sample,
I image positions.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from dalle_cli.data.images import BadSample
from dalle_cli.data.loader import read_sample
from dalle_cli.data.preprocessing import EncodingPreprocessing
from dalle_cli.data.sources import Problem, Source
from dalle_cli.data.token_shards import EncodedSample
from dalle_cli.models.dvae import DVAEEncoder
from dalle_cli.scoring.embeddings import prefetch


@dataclass(frozen=True)
class _CroppedSample:
    """A sample's crops uint8 [C, H, W, 3], or the problem that it has instead."""

    key: str
    captions: list[str]
    crops: np.ndarray
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
    ) -> tuple[list[EncodedSample], list[Problem]]:
        """Encode samples of the source; returns them, and the bad ones as (key, reason).

        advance  called once for each sample
        """
        samples: list[EncodedSample] = []
        bad: list[Problem] = []
        with ThreadPoolExecutor() as pool:
            for batch in prefetch(self._crop, indices, pool=pool, batch_size=self.batch_size):
                bad += [(crop.key, crop.problem) for crop in batch if crop.problem is not None]
                samples += self._encode_batch([crop for crop in batch if crop.problem is None])
                for _ in batch:
                    advance()
        return samples, bad

    def _crop(self, index: int) -> _CroppedSample:
        try:
            sample = read_sample(self.source, index)
            crops = self.preprocessing(sample, index)
        except BadSample as problem:
            key, nothing = self.source.key(index), np.empty(0, np.uint8)
            return _CroppedSample(key, captions=[], crops=nothing, problem=problem.reason)
        return _CroppedSample(sample.key, sample.captions, crops)

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
