"""Retrieval between pictures and captions, by the cosines of their embeddings.

As in training a CLIP (`training/tasks/clip.py`), but some rows at a time, so that tens of thousands
of pairs fit. Axes: N pairs, E CLIP's shared width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dalle_cli.metrics import recall_at, retrieval_ranks

RECALLS = (1, 5, 10)
ROWS_AT_ONCE = 1024


def retrieval_figures(pictures: Tensor, captions: Tensor, texts: Sequence[str]) -> dict[str, float]:
    """Compute how often a match is among the first k captions of a picture, and the reverse.

    pictures, captions  unit vectors [N, E], pair by pair
    texts               of the captions; pictures of the same text match one another
    """
    numbers: dict[str, int] = {}
    labels = torch.tensor([numbers.setdefault(text, len(numbers)) for text in texts])  # [N]

    figures: dict[str, float] = {}
    for name, queries, keys in (("text", pictures, captions), ("image", captions, pictures)):
        parts = [
            retrieval_ranks(queries[rows] @ keys.T, labels[rows, None] == labels)
            for rows in torch.arange(len(labels)).split(ROWS_AT_ONCE)
        ]
        ranks = torch.cat(parts)
        figures |= {f"{name}_recall_at_{k}": recall_at(k, ranks) for k in RECALLS}
    return figures
