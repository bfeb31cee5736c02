"""Held-out figures of embeddings that a prior guesses from captions.

The loss alone doesn't show a prior that has become the mean of what a caption may mean: its samples
of a caption are all alike, and their variance says so. Axes used below:

    B batch    D width of CLIP's embedding    n candidates of a caption
"""

from collections import defaultdict

import torch
import torch.nn.functional as F
from torch import Tensor

from dalle_cli.models.unclip.diffusion_prior import keep_closest
from dalle_cli.training.tasks.unclip.clip_pairs import ClipPairs


class EmbeddingFigures:
    """Means over the samples of all batches that are added."""

    def __init__(self) -> None:
        self._n_samples = 0
        self._sums: dict[str, float] = defaultdict(float)
        self._images_of: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, pairs: ClipPairs, candidates: Tensor, *, captions: list[str]) -> None:
        """Add the candidates [B, n, D], of any length, for the captions of a batch."""
        candidates = F.normalize(candidates, dim=2)
        kept = keep_closest(candidates, pairs.texts)
        sums = {
            "cosine_to_image": (kept * pairs.images).sum(),
            "cosine_to_text": (kept * pairs.texts).sum(),
            "cosine_of_pairs": (pairs.images * pairs.texts).sum(),
            "variance_within_captions": candidates.var(dim=1).sum(),
        }
        for name, total in sums.items():
            self._sums[name] += float(total)
        self._n_samples += len(captions)
        for caption, image in zip(captions, pairs.images, strict=True):
            self._images_of[caption].append(image)

    def means(self) -> dict[str, float]:
        """Return the figures; the variance of pictures is that of captions with several."""
        figures = {f"valid/{name}": total / self._n_samples for name, total in self._sums.items()}
        groups = [torch.stack(images) for images in self._images_of.values() if len(images) > 1]
        if groups:
            n_images = sum(map(len, groups))
            # of each group with n - 1, and then in proportion to its pictures
            total = sum(len(group) * float(group.var(dim=0).sum()) for group in groups)
            figures["valid/picture_variance_within_captions"] = total / n_images
        return figures
