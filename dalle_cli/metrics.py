"""Figures that say how good a model is, pure: pictures and tokens in, numbers out."""

import math

import torch
from torch import Tensor


def psnr(squared_error: float) -> float:
    """Peak signal-to-noise ratio, in dB, of a mean squared error between pixel values in [0, 1]."""
    return -10 * math.log10(max(squared_error, 1e-10))


def code_counts(image_tokens: Tensor, vocab_size: int) -> Tensor:
    """Count how often each codebook entry is used: int64 [...] -> int64 [K]."""
    return torch.bincount(image_tokens.flatten().cpu(), minlength=vocab_size)


def perplexity(counts: Tensor) -> float:
    """Exponential of the entropy of a histogram: how many entries, used equally often, would be as varied."""
    shares = counts[counts > 0].double() / counts.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


def retrieval_ranks(similarity: Tensor, is_match: Tensor) -> Tensor:
    """Rank each row's best match among the columns that do not match: int64 [N], 0 is the first place.

    similarity  [N, M]; a column that scores as high as the best match stands before it
    is_match    bool [N, M], at least one a row; the same caption may belong to several pictures
    """
    best = similarity.masked_fill(~is_match, -torch.inf).amax(dim=1, keepdim=True)
    return ((similarity >= best) & ~is_match).sum(dim=1)


def recall_at(k: int, ranks: Tensor) -> float:
    """Share of ranks int64 [N] among the first k."""
    return float((ranks < k).double().mean())
