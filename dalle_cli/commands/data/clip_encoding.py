"""CLIP's embeddings of crops and captions, for `dalle data encode --clip`.

Axes: N samples, C crops, D width of an embedding.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dalle_cli.commands.data.shard_format import CroppedSample
from dalle_cli.data.augment import CLIP_SQUARE_VERSION
from dalle_cli.data.images import DECODING_VERSION
from dalle_cli.data.sources import Problem, Sample, Source
from dalle_cli.data.unclip.clip_embeddings import SampleEmbeddings
from dalle_cli.data.unclip.embedding_shards import (
    ClipEncoding,
    EmbeddedSample,
    EmbeddingRecord,
    EmbeddingShard,
    embedding_shard_path,
    write_embedding_record,
    write_embedding_shard,
)
from dalle_cli.data.unclip.preprocessing import EmbeddingPreprocessing
from dalle_cli.runtime.precision import Precision
from dalle_cli.scoring.caption_slots import embed_slots
from dalle_cli.scoring.clip_scorer import ClipScorer, load_clip_scorer


@dataclass(frozen=True)
class EmbeddingFormat:
    """Shards of embeddings; `batch_size` crops or captions go through CLIP together."""

    scorer: ClipScorer
    encoding: ClipEncoding
    batch_size: int

    @property
    def copies(self) -> int:
        """The number of random crops of each sample."""
        return self.encoding.copies

    def crop(self, sample: Sample, seed: int) -> np.ndarray:
        """Cut all crops of a sample: uint8 [C, H, W, 3]."""
        return EmbeddingPreprocessing(self.scorer.clip.image_size, self.copies)(sample, seed)

    def encode(self, samples: list[CroppedSample]) -> list[EmbeddedSample]:
        """Embed every crop, and every distinct caption."""
        crops = [square for sample in samples for square in sample.crops]  # N * C of [H, W, 3]
        starts = range(0, len(crops), self.batch_size)
        parts = [self.scorer.embed_pictures(crops[i : i + self.batch_size]) for i in starts]
        images = torch.cat(parts).unflatten(0, (len(samples), -1)).numpy()  # [N, C, D]

        distinct = list(dict.fromkeys(text for sample in samples for text in sample.captions))
        captions = embed_slots(self.scorer, distinct, batch_size=self.batch_size)
        return [
            EmbeddedSample(
                sample.key,
                sample.captions,
                SampleEmbeddings(crops_of, [captions[text] for text in sample.captions]),
            )
            for sample, crops_of in zip(samples, images, strict=True)
        ]

    def bytes_of(self, n_samples: int) -> int:
        """Estimate the size of the embeddings of so many samples."""
        return self.encoding.bytes_of(n_samples)

    def path(self, folder: Path, number: int) -> Path:
        """Return the path of a shard."""
        return embedding_shard_path(folder, number)

    def write(
        self,
        path: Path,
        samples: list[EmbeddedSample],
        *,
        bad: list[Problem],
        checksums: np.ndarray,
    ) -> None:
        """Write a shard atomically."""
        write_embedding_shard(path, self.encoding, samples=samples, bad=bad, checksums=checksums)

    def checksums(self, path: Path) -> np.ndarray:
        """Read the checksums of a shard; raises DalleError if it is none."""
        return EmbeddingShard(path, self.encoding).checksums()

    def write_record(self, folder: Path, n_shards: int, source: Source) -> EmbeddingRecord:
        """Seal the shards of a source's samples, which completes the folder."""
        return write_embedding_record(
            folder,
            self.encoding,
            n_shards=n_shards,
            problems=source.problems,
            n_lost=source.n_lost,
        )


def embedding_format(
    clip: str, *, copies: int, batch_size: int, device: torch.device, precision: Precision
) -> EmbeddingFormat:
    """Load a CLIP, to embed captioned pictures with it on a device."""
    scorer = load_clip_scorer(clip, None, device=device, precision=precision)
    encoding = ClipEncoding(
        clip=scorer.identity,
        precision=precision,
        d_embed=scorer.width,
        d_text=scorer.clip.text.d_model,
        text_len=scorer.clip.text_len,
        text_vocab_size=scorer.clip.text_vocab_size,
        copies=copies,
        square=CLIP_SQUARE_VERSION,
        decoding=DECODING_VERSION,
    )
    return EmbeddingFormat(scorer, encoding, batch_size)
