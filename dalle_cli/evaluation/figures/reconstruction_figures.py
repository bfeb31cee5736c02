"""How well a discrete VAE reconstructs pictures and uses its codebook.

Axes: G side of the token grid, V size of the image vocabulary.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dalle_cli.metrics import blank_cells, code_counts, perplexity, psnr, ssim
from dalle_cli.models.dvae import DiscreteVAE


class Reconstruction(NamedTuple):
    """How well a picture was reconstructed, and its tokens: all, and those of blank cells."""

    squared_error: float
    ssim: float
    image_tokens: Tensor
    blank_tokens: Tensor


def measure_reconstruction(
    original: Tensor, rebuilt: Tensor, *, image_tokens: Tensor
) -> Reconstruction:
    """Measure a reconstructed picture.

    original, rebuilt  float [3, H, W] in [0, 1]
    image_tokens       int64 [G * G]
    """
    is_blank = blank_cells(original[None], math.isqrt(len(image_tokens)))[0]  # [G * G]
    return Reconstruction(
        squared_error=float((rebuilt - original).square().mean()),
        ssim=ssim(rebuilt, original),
        image_tokens=image_tokens,
        blank_tokens=image_tokens[is_blank],
    )


class ReconstructionFigures:
    """Sums over reconstructed pictures."""

    def __init__(self, dvae: DiscreteVAE) -> None:
        self._dvae = dvae
        self._n_pictures = 0
        self._squared_error = 0.0
        self._ssim = 0.0
        self._counts, self._blank_counts = torch.zeros(2, dvae.vocab_size, dtype=torch.int64)

    def add(self, found: Reconstruction) -> dict[str, float]:
        """Count a picture and return its figures."""
        self._counts += code_counts(found.image_tokens, self._dvae.vocab_size)
        self._blank_counts += code_counts(found.blank_tokens, self._dvae.vocab_size)

        self._n_pictures += 1
        self._squared_error += found.squared_error
        self._ssim += found.ssim
        return {"psnr": round(psnr(found.squared_error), 2), "ssim": round(found.ssim, 4)}

    def summary(self) -> dict[str, float]:
        """Return the figures of all pictures together."""
        counts = self._counts
        return {
            "psnr": round(psnr(self._squared_error / self._n_pictures), 2),
            "ssim": round(self._ssim / self._n_pictures, 4),
            "codes_used": int((counts > 0).sum()),
            "vocab_size": self._dvae.vocab_size,
            "perplexity": round(perplexity(counts), 2),
            "perplexity_without_blanks": round(perplexity(counts - self._blank_counts), 2),
            **_bits_per_pixel(self._dvae, counts),
        }


def _bits_per_pixel(dvae: DiscreteVAE, counts: Tensor) -> dict[str, float]:
    """Return the bits that tokens take per pixel: with equally likely codes, and by their entropy.

    counts  int64 [V], of each code
    """
    cells_per_pixel = (dvae.grid_size / dvae.image_size) ** 2
    return {
        "bits_per_pixel": round(math.log2(dvae.vocab_size) * cells_per_pixel, 5),
        "bits_per_pixel_by_entropy": round(math.log2(perplexity(counts)) * cells_per_pixel, 5),
    }
