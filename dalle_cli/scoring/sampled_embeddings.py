"""CLIP's embeddings of some pictures of a data set, evenly spread over it."""

import numpy as np
import torch
from torch import Tensor

from dalle_cli.data.images import BadSample, decode_image
from dalle_cli.data.loader import read_sample
from dalle_cli.data.sources import EmbeddingSource, Source
from dalle_cli.errors import DalleError, UsageError, printable
from dalle_cli.scoring.clip_scorer import ClipScorer

MOST_SAMPLED = 4096  # pictures
BATCH_SIZE = 64


def sample_image_embeddings(
    source: Source, scorer: ClipScorer, *, most: int = MOST_SAMPLED
) -> Tensor:
    """Embed the pictures of a source, or read what was embedded beforehand: unit vectors [N, D].

    Unusable samples are left out. Raises UsageError for embeddings of another CLIP, and DalleError
    where nothing is usable.
    """
    name = printable(source.name)
    if isinstance(source, EmbeddingSource) and source.encoding.clip != scorer.identity:
        message = f"{name} was embedded by another CLIP than the decoder's"
        raise UsageError(message, "name the pictures, or embed them with the decoder's CLIP")

    found: list[Tensor] = []
    squares: list[np.ndarray] = []
    for index in np.linspace(0, len(source) - 1, min(most, len(source))).astype(int):
        try:
            sample = read_sample(source, int(index))
            if sample.embeddings is not None:
                found.append(torch.from_numpy(sample.embeddings.images[:1].copy()))  # [1, D]
            else:
                squares.append(scorer.square(decode_image(sample.image)))
        except BadSample:
            continue
        if len(squares) == BATCH_SIZE:
            found.append(scorer.embed_pictures(squares))  # [B, D]
            squares = []

    if squares:
        found.append(scorer.embed_pictures(squares))  # [B, D]
    if not found:
        raise DalleError(f"not one usable sample in {name}", "`dalle data check` says why")
    return torch.cat(found)
