"""CLIP's embeddings of captioned pictures on disk: shards, and the record that completes them.

A shard is a safetensors file like those of `token_shards`. It holds the embedding of every crop
and, once for each distinct caption, its tokens, its embedding and the outputs of CLIP's text tower
up to the end of text. Knows nothing of pictures and models. Axes used below:

    N samples of a shard    C crops of a sample, the centred one first    D width of an embedding
    K distinct captions    S slots of all of them    R captions of all samples    F width of a slot
    M samples that it was made of, the bad ones included
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from dalle_cli.config import Positive
from dalle_cli.data.images import BadSample, Problem
from dalle_cli.data.token_shards import (
    CHECKSUMS,
    SampleShard,
    SealedFolder,
    read_sealed,
    sealed,
    text_tensors,
    write_sample_shard,
)
from dalle_cli.data.unclip.clip_embeddings import CaptionEmbedding, SampleEmbeddings
from dalle_cli.errors import DalleError
from dalle_cli.storage.atomic import write_file
from dalle_cli.storage.run_dir import EMBEDDINGS

DAMAGED_EMBEDDINGS = "damaged embeddings"
TYPICAL_TOKENS = 16  # of a caption, for an estimate of sizes


class ClipEncoding(BaseModel):
    """How samples were embedded: by which CLIP, and in which form.

    clip      its checksum, see `clip_checksum`
    square    the `CLIP_SQUARE_VERSION`, and
    decoding  the `DECODING_VERSION` with which pictures were read
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    clip: str
    precision: str
    d_embed: Positive
    d_text: Positive
    text_len: Positive
    text_vocab_size: Positive
    copies: Positive
    square: Positive
    decoding: Positive

    def bytes_of(self, n_samples: int) -> int:
        """Estimate the size of samples with one caption each, no two of them alike."""
        crops = np.dtype(np.float32).itemsize * self.d_embed * (2 + self.copies)
        states = np.dtype(np.float16).itemsize * self.d_text * TYPICAL_TOKENS
        return n_samples * (crops + states)


class EmbeddingRecord(SealedFolder):
    """The content of `embeddings.json`."""

    encoding: ClipEncoding


class EmbeddedSample(NamedTuple):
    """One sample, with the embeddings of its crops and of its captions."""

    key: str
    captions: list[str]
    embeddings: SampleEmbeddings


def embedding_shard_path(folder: Path, number: int) -> Path:
    """Return the path of a shard."""
    return folder / f"embeddings-{number:05d}.safetensors"


def write_embedding_shard(
    path: Path,
    encoding: ClipEncoding,
    *,
    samples: list[EmbeddedSample],
    bad: list[Problem],
    checksums: np.ndarray,
) -> None:
    """Write a shard atomically.

    bad        the samples that belong to it and could not be used
    checksums  of what was read, of bad samples, too, in the order of the source: uint8 [M, 32]
    """
    rows: dict[str, int] = {}  # by caption, in the order of their first appearance
    distinct: list[CaptionEmbedding] = []
    caption_rows: list[int] = []
    for sample in samples:
        for text, embedded in zip(sample.captions, sample.embeddings.captions, strict=True):
            if text not in rows:
                rows[text] = len(distinct)
                distinct.append(embedded)
            caption_rows.append(rows[text])

    images = np.array([sample.embeddings.images for sample in samples], np.float32)
    tensors: dict[str, np.ndarray] = {
        "image_embeddings": images.reshape(len(samples), 1 + encoding.copies, encoding.d_embed),
        "caption_rows": np.array(caption_rows, np.int64),  # [R]
        "caption_ends": np.cumsum([len(sample.captions) for sample in samples], dtype=np.int64),
        **_caption_tensors(distinct, encoding),
        **text_tensors((sample.key, sample.captions) for sample in samples),
        CHECKSUMS: checksums,
    }
    write_sample_shard(path, tensors, bad)


def _caption_tensors(
    captions: Sequence[CaptionEmbedding], encoding: ClipEncoding
) -> dict[str, np.ndarray]:
    """Return distinct captions as tensors, one after another."""
    embeddings = np.array([caption.embedding for caption in captions], np.float32)
    states = [np.empty((0, encoding.d_text), np.float16), *(c.states for c in captions)]
    tokens = [np.empty(0, np.int64), *(caption.tokens for caption in captions)]
    return {
        "text_embeddings": embeddings.reshape(len(captions), encoding.d_embed),  # [K, D]
        "text_states": np.concatenate(states).astype(np.float16),  # [S, F]
        "text_tokens": np.concatenate(tokens).astype(np.int64),  # [S]
        "slot_ends": np.cumsum([len(c.tokens) for c in captions], dtype=np.int64),  # [K]
    }


class EmbeddingShard(SampleShard):
    """A shard of samples with CLIP's embeddings."""

    what = "CLIP embeddings"
    names = (
        "image_embeddings",
        "caption_rows",
        "caption_ends",
        "text_embeddings",
        "text_states",
        "text_tokens",
        "slot_ends",
    )

    def __init__(self, path: Path, encoding: ClipEncoding) -> None:
        """Open a shard; raises DalleError, too, if it is not of this encoding."""
        super().__init__(path)
        self._text_len, self._text_vocab_size = encoding.text_len, encoding.text_vocab_size
        n_samples, n_captions = len(self), self._length("slot_ends")
        self._check_forms(
            {
                "image_embeddings": ("F32", [n_samples, 1 + encoding.copies, encoding.d_embed]),
                "caption_rows": ("I64", [self._length("caption_rows")]),
                "caption_ends": ("I64", [n_samples]),
                "text_embeddings": ("F32", [n_captions, encoding.d_embed]),
                "text_states": ("F16", [self._length("text_tokens"), encoding.d_text]),
                "text_tokens": ("I64", [self._length("text_tokens")]),
                "slot_ends": ("I64", [n_captions]),
            }
        )

    def embeddings(self, index: int) -> SampleEmbeddings:
        """Read the embeddings of a sample; raises BadSample where they are damaged."""
        images = self._slices["image_embeddings"][index]  # [C, D]
        start, end = self._span("caption_ends", index, "caption_rows")
        captions = [self._caption(int(row)) for row in self._slices["caption_rows"][start:end]]
        if not np.isfinite(images).all():
            raise BadSample(DAMAGED_EMBEDDINGS)
        return SampleEmbeddings(images, captions)

    def _caption(self, row: int) -> CaptionEmbedding:
        """Read a distinct caption; raises BadSample where it is damaged."""
        if not 0 <= row < self._length("slot_ends"):
            raise BadSample(DAMAGED_EMBEDDINGS)
        start, end = self._span("slot_ends", row, "text_tokens")
        caption = CaptionEmbedding(
            self._slices["text_tokens"][start:end],
            self._slices["text_embeddings"][row],
            self._slices["text_states"][start:end],
        )
        is_finite = np.isfinite(caption.embedding).all() and np.isfinite(caption.states).all()
        is_known = caption.tokens.min() >= 0 and caption.tokens.max() < self._text_vocab_size
        if end - start > self._text_len or not (is_finite and is_known):
            raise BadSample(DAMAGED_EMBEDDINGS)
        return caption

    def _span(self, name: str, index: int, of: str) -> tuple[int, int]:
        """Return where what belongs to an index starts and ends in a tensor, by another of ends.

        Raises BadSample where that is nowhere.
        """
        ends = self._slices[name]
        start, end = (int(ends[index - 1]) if index else 0), int(ends[index])
        if not 0 <= start < end <= self._length(of):
            raise BadSample(DAMAGED_EMBEDDINGS)
        return start, end

    def _length(self, name: str) -> int:
        shape: list[int] = self._slices[name].get_shape()
        return shape[0] if shape else 0


def write_embedding_record(
    folder: Path, encoding: ClipEncoding, *, n_shards: int, problems: list[Problem], n_lost: int
) -> EmbeddingRecord:
    """Seal the shards of a folder, which completes it.

    problems, n_lost  those of the source, which no shard records

    Raises DalleError if the shards hold no sample.
    """
    shards = [EmbeddingShard(embedding_shard_path(folder, i), encoding) for i in range(n_shards)]
    record = EmbeddingRecord(encoding=encoding, lost=n_lost, **sealed(shards, problems))
    write_file(folder / EMBEDDINGS, record.model_dump_json(indent=1) + "\n")
    return record


def read_embedding_record(folder: Path) -> EmbeddingRecord:
    """Read the record of a folder; raises DalleError if the file holds anything else."""
    return read_sealed(folder / EMBEDDINGS, EmbeddingRecord)


def is_embedded(folder: Path) -> bool:
    """Return whether a folder holds embeddings.

    Raises DalleError if their encoding was started and not finished.
    """
    if (folder / EMBEDDINGS).is_file():
        return True
    if embedding_shard_path(folder, 0).is_file():
        raise DalleError(
            f"encoding was not finished: {folder}",
            "the same `dalle data encode` command resumes it",
        )
    return False
