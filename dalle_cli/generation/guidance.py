"""Classifier-free guidance: each token is predicted with its caption and without.

Ho and Salimans 2022; not in the DALL-E paper. The empty caption is the one that a recipe's
`caption_dropout` trains. Both predictions come from one pass through the weights, since reading
these is the cost of a step with few samples. Axes used below:

    B samples    C captions, with B / C samples each    T text slots    Vi image vocabulary
"""

import torch
from torch import Tensor, nn

from dalle_cli.generation.cached_transformer import CachedTransformer, KVCache


class GuidedTransformer(nn.Module):
    """A transformer whose predictions are guided away from those without a caption.

    It is used like the transformer it wraps. The rows of each caption are followed by as many rows
    of the empty one, so that samples still share keys and values.
    """

    def __init__(self, transformer: CachedTransformer, guidance: float) -> None:
        super().__init__()
        self.transformer = transformer
        self._guidance = guidance

    def new_cache(self, n_samples: int, n_captions: int) -> KVCache:
        """Allocate a cache for all samples, with their captions and without."""
        return self.transformer.new_cache(2 * n_samples, 2 * n_captions)

    def prefill(self, captions: Tensor, image_tokens: Tensor, cache: KVCache) -> None:
        """Fill a cache from captions and the empty one.

        The arguments are those of a `CachedTransformer`.
        """
        both = torch.stack([captions, torch.full_like(captions, -1)], dim=1)  # [C, 2, T]
        self.transformer.prefill(both.flatten(0, 1), image_tokens, cache)  # [2 C, T]

    def forward(self, previous: Tensor, position: Tensor, cache: KVCache) -> Tensor:
        """Compute empty + guidance * (caption - empty) of the two predictions.

        The arguments and the result are those of a `CachedTransformer`.
        """
        n_captions = cache[0].text.shape[1] // 2
        rows = previous.view(n_captions, 1, -1).expand(-1, 2, -1)  # [C, 2, B / C]

        logits = self.transformer(rows.flatten(), position, cache)  # [2 B, Vi]
        caption, empty = logits.unflatten(0, rows.shape).unbind(1)  # [C, B / C, Vi] each
        return (empty + self._guidance * (caption - empty)).flatten(0, 1)  # [B, Vi]
