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
