"""Captioned pictures as a CLIP sees them: of a sample, of an example, and of a batch.

Axes used below:

    B batch    C crops of a sample, the centred one first    D width of CLIP's embedding
    T text slots    L slots up to the end of a caption    F width of CLIP's text tower
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dalle_cli.runtime.devices import to_device


class CaptionEmbedding(NamedTuple):
    """A caption that was embedded beforehand.

    tokens     int64 [L], start and end of text included
    embedding  float32 [D], of unit length
    states     float16 [L, F], the outputs of CLIP's text tower
    """

    tokens: np.ndarray
    embedding: np.ndarray
    states: np.ndarray


class SampleEmbeddings(NamedTuple):
    """A sample that was embedded beforehand.

    images    float32 [C, D], of unit length
    captions  those of the sample, in their order
    """

    images: np.ndarray
    captions: list[CaptionEmbedding]


class PairEmbeddings(NamedTuple):
    """A crop and a caption of a sample that was embedded beforehand.

    image   float32 [D]
    text    float32 [D]
    states  float32 [T, F], zeros after the caption
    """

    image: np.ndarray
    text: np.ndarray
    states: np.ndarray


class BatchEmbeddings(NamedTuple):
    """The pairs of a batch, embedded beforehand.

    images  [B, D]
    texts   [B, D]
    states  [B, T, F]
    """

    images: Tensor
    texts: Tensor
    states: Tensor

    def part(self, rows: slice, device: torch.device) -> "BatchEmbeddings":
        """Return some of the pairs, moved to a device."""
        return BatchEmbeddings(*(to_device(tensor[rows], device) for tensor in self))


def stack_embeddings(pairs: list[PairEmbeddings]) -> BatchEmbeddings:
    """Stack the embeddings of pairs into those of a batch."""
    return BatchEmbeddings(
        *(torch.from_numpy(np.stack(parts)) for parts in zip(*pairs, strict=True))
    )
