"""Measures of a model's quality, pure: images and tokens in, numbers out."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # pixels
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # of values in [0, 1]


def psnr(squared_error: float) -> float:
    """Return the peak signal-to-noise ratio, in dB, of a mean squared error of pixels in [0, 1]."""
    return -10 * math.log10(max(squared_error, 1e-10))


def ssim(a: Tensor, b: Tensor) -> float:
    """Compute the structural similarity of two images [3, H, W] in [0, 1], the mean over channels.

    Averages over every window of 11 pixels that lies inside, under a Gaussian; a smaller image has
    a single window (Wang et al. 2004).
    """
    pair = torch.stack([a, b]).double()  # [2, 3, H, W]
    x, y = pair
    maps = torch.cat([pair, pair.square(), (x * y)[None]])  # [5, 3, H, W]
    mean_x, mean_y, square_x, square_y, product = _window_means(maps)  # [3, H', W'] each

    covariance = product - mean_x * mean_y
    variances = square_x - mean_x**2 + square_y - mean_y**2
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x**2 + mean_y**2 + SSIM_C1)
    return float((luminance * (2 * covariance + SSIM_C2) / (variances + SSIM_C2)).mean())


def _window_means(maps: Tensor) -> Tensor:
    """Compute the Gaussian mean of every window: [N, C, H, W] -> [N, C, H', W']."""
    for axis in (2, 3):  # a Gaussian is separable
        n = min(SSIM_WINDOW, maps.shape[axis])
        distances = torch.arange(n, dtype=maps.dtype, device=maps.device) - (n - 1) / 2
        weights = (-(distances**2) / (2 * SSIM_SIGMA**2)).exp()
        maps = maps.unfold(axis, n, 1) @ (weights / weights.sum())
    return maps


def blank_cells(images: Tensor, grid_size: int) -> Tensor:
    """Mark the cells of the token grid whose pixels are all of one colour.

    images   [B, 3, H, W]
    returns  bool [B, g*g]
    """
    side = images.shape[-1] // grid_size
    patches = F.unfold(images, side, stride=side)  # [B, 3 * side * side, g*g]
    patches = patches.unflatten(1, (3, side * side))  # [B, 3, side * side, g*g]

    low, high = patches.aminmax(dim=2)  # [B, 3, g*g] each
    return (low == high).all(dim=1)


def code_counts(image_tokens: Tensor, vocab_size: int) -> Tensor:
    """Count how often each codebook entry is used: int64 [...] -> int64 [K]."""
    return torch.bincount(image_tokens.flatten().cpu(), minlength=vocab_size)


def perplexity(counts: Tensor) -> float:
    """Return the exponential of a histogram's entropy.

    This is the number of entries that, used equally often, would be as varied.
    """
    shares = counts[counts > 0].double() / counts.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


def retrieval_ranks(similarity: Tensor, is_match: Tensor) -> Tensor:
    """Rank each row's best match among the columns that do not match.

    similarity  [N, M]; a column that scores as high as the best match is ranked before it
    is_match    bool [N, M], at least one a row; the same caption may belong to several images
    returns     int64 [N], where 0 is the first place
    """
    best = similarity.masked_fill(~is_match, -torch.inf).amax(dim=1, keepdim=True)  # [N, 1]
    return ((similarity >= best) & ~is_match).sum(dim=1)


def recall_at(k: int, ranks: Tensor) -> float:
    """Return the share of ranks int64 [N] among the first k."""
    return float((ranks < k).double().mean())
