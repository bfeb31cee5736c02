"""Classifier-free guidance for drawing slot by slot (Ho and Salimans 2022): each sample with its caption and without.

Not in the paper. The empty caption is the one that a recipe's `caption_dropout` trains. Both predictions come from one
pass through the weights, whose reading is what a slot of few samples costs.
"""

import torch
from torch import Tensor, nn

from dalle_cli.generation.cached_transformer import CachedTransformer, KVCache


class GuidedTransformer(nn.Module):
    """A transformer that leads each sample away from what is drawn of no caption; used like the one it holds.

    The empty caption's rows follow those of each caption, as many, so that samples share keys and values still.
    """

    def __init__(self, transformer: CachedTransformer, guidance: float) -> None:
        super().__init__()
        self.transformer = transformer
        self._guidance = guidance

    def new_cache(self, n_samples: int, n_captions: int) -> KVCache:
        """Make room for so many samples, with their captions and without."""
        return self.transformer.new_cache(2 * n_samples, 2 * n_captions)

    def prefill(self, captions: Tensor, image_tokens: Tensor, cache: KVCache) -> None:
        """Fill a cache from captions and the empty one; the arguments are a `CachedTransformer`'s."""
        both = torch.stack([captions, torch.full_like(captions, -1)], dim=1)  # [C, 2, T]
        self.transformer.prefill(both.flatten(0, 1), image_tokens, cache)

    def forward(self, before: Tensor, position: Tensor, cache: KVCache) -> Tensor:
        """Give empty + guidance * (caption - empty) of the two predictions; arguments and result as a `CachedTransformer`'s."""
        n_captions = cache[0][0].shape[1] // 2
        rows = before.view(n_captions, 1, -1).expand(-1, 2, -1)  # [C, 2, B / C]
        logits = self.transformer(rows.flatten(), position, cache).unflatten(0, rows.shape)
        caption, empty = logits.unbind(1)
        return (empty + self._guidance * (caption - empty)).flatten(0, 1)
