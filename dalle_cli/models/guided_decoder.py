"""Classifier-free guidance for drawing slot by slot (Ho and Salimans 2022): each sample with its caption and without.

Not in the paper. The empty caption is the one that a recipe's `caption_dropout` trains. Both predictions come from one
pass through the weights, whose reading is what a slot of few samples costs.
"""

import torch
from torch import Tensor

from dalle_cli.models.decoder import Decoder, distinct_captions
from dalle_cli.models.transformer import Transformer


class GuidedDecoder:
    """So many samples, being drawn side by side, each led away from what is drawn of no caption."""

    def __init__(
        self, transformer: Transformer, text_tokens: Tensor, guidance: float, dtype: torch.dtype = torch.float32
    ) -> None:
        """Read the captions, and the empty one; the arguments but `guidance` are a `Decoder`'s."""
        self._guidance = guidance
        # the empty caption's rows follow those of each caption, as many, so that samples share keys and values still
        self._row = len(text_tokens) // len(distinct_captions(text_tokens))
        rows = text_tokens.unflatten(0, (-1, self._row))  # [C, B / C, T]
        both = torch.stack([rows, torch.full_like(rows, -1)], dim=1)  # [C, 2, B / C, T]
        self._decoder = Decoder(transformer, both.flatten(0, 2), dtype)

    @torch.inference_mode()
    def logits(self, held: Tensor | None, position: int) -> Tensor:
        """Give empty + guidance * (caption - empty) of the two predictions; arguments and result as a `Decoder`'s."""
        if held is not None:
            held = held.view(-1, 1, self._row).expand(-1, 2, -1).flatten()
        caption, empty = self._decoder.logits(held, position).unflatten(0, (-1, 2, self._row)).unbind(1)
        return (empty + self._guidance * (caption - empty)).flatten(0, 1)

    @property
    def n_bytes(self) -> int:
        """Count the bytes of keys and values."""
        return self._decoder.n_bytes
