"""Captions as the context of a decoder: from their tokens, or from the slots of CLIP's text tower.

Nichol et al. 2022 (GLIDE) for the tokens. A slot without a token has a learned vector of its
position, which is attended to like any other; a caption that is left out is one without tokens.
Knows nothing of text, files or training. Axes used below:

    B batch    T text slots    F width of CLIP's text tower    W width of a context slot
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from dalle_cli.models.clip import ClipBlock, ClipTransformer, Tower


class CaptionInputs(NamedTuple):
    """Captions as a model reads them.

    values    int64 [B, T], tokens, or [B, T, F], outputs of CLIP's text tower; anything where there
              is no token
    is_given  bool [B, T], whether there is one
    """

    values: Tensor
    is_given: Tensor

    def repeated(self, n: int) -> "CaptionInputs":
        """Return n rows for each caption, next to each other."""
        return CaptionInputs(*(tensor.repeat_interleave(n, dim=0) for tensor in self))

    def twice(self) -> "CaptionInputs":
        """Return all captions, and then all of them again."""
        return CaptionInputs(*(torch.cat([tensor, tensor]) for tensor in self))


class CaptionEncoder(nn.Module):
    """What both ways to read captions have in common: padding."""

    def __init__(self, text_len: int, d_context: int) -> None:
        super().__init__()
        self.text_len = text_len
        self.padding = nn.Parameter(torch.zeros(text_len, d_context))

    def forward(self, captions: CaptionInputs) -> Tensor:
        """Encode captions as context [B, T, W]."""
        raise NotImplementedError

    def no_captions(self, n: int, device: torch.device) -> CaptionInputs:
        """Return the inputs of n samples without a caption."""
        none = torch.zeros(n, self.text_len, dtype=torch.bool, device=device)
        return CaptionInputs(self._empty_values(n, device), none)

    def _empty_values(self, n: int, device: torch.device) -> Tensor:
        """Return values for slots without a token, which are not looked at."""
        raise NotImplementedError

    def padded(self, slots: Tensor, is_given: Tensor) -> Tensor:
        """Replace the slots [B, T, W] without a token.

        Raises ValueError for another number of slots.
        """
        if slots.shape[1] != self.text_len:
            raise ValueError(f"expected {self.text_len} text slots, got {slots.shape[1]}")
        return torch.where(is_given[..., None], slots, self.padding)  # [B, T, W]

    def half_precision_modules(self) -> list[nn.Module]:
        """Return the residual branches, if there are any."""
        return []


class TokenCaptions(CaptionEncoder):
    """A transformer over a caption's tokens that is trained with the decoder; not causal.

    The last slot, of a token or not, stands for the whole caption.
    """

    def __init__(
        self, text_vocab_size: int, text_len: int, n_layers: int, d_model: int, n_heads: int
    ) -> None:
        super().__init__(text_len, d_model)
        self.embedding = nn.Embedding(text_vocab_size, d_model)
        self.position = nn.Parameter(torch.empty(text_len, d_model))
        self.transformer = ClipTransformer(Tower(n_layers, d_model, n_heads, 4 * d_model), "gelu")
        self.final_norm = nn.LayerNorm(d_model)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as CLIP's text tower."""
        if self.position.is_meta:
            return  # nothing to initialise, and torch would import modules for a second to do so
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.position, std=0.01)
        nn.init.normal_(self.padding, std=0.01)
        self.transformer.reset_parameters()

    def forward(self, captions: CaptionInputs) -> Tensor:
        tokens = captions.values.masked_fill(~captions.is_given, 0)
        slots = self.embedding(tokens) + self.position  # [B, T, W]
        return self.final_norm(self.transformer(self.padded(slots, captions.is_given)))

    def _empty_values(self, n: int, device: torch.device) -> Tensor:
        return torch.zeros(n, self.text_len, dtype=torch.int64, device=device)

    def half_precision_modules(self) -> list[nn.Module]:
        """Return the residual branches of the transformer."""
        blocks = cast(Sequence[ClipBlock], self.transformer.resblocks)
        return [part for block in blocks for part in (block.attn, block.mlp)]


class StateCaptions(CaptionEncoder):
    """A linear map and a LayerNorm of the outputs of CLIP's text tower."""

    def __init__(self, d_text: int, text_len: int, d_context: int) -> None:
        super().__init__(text_len, d_context)
        self.input = nn.Linear(d_text, d_context)
        self.norm = nn.LayerNorm(d_context)

    def forward(self, captions: CaptionInputs) -> Tensor:
        slots = self.norm(self.input(captions.values))  # [B, T, W]
        return self.padded(slots, captions.is_given)

    def _empty_values(self, n: int, device: torch.device) -> Tensor:
        return torch.zeros(n, self.text_len, self.input.in_features, device=device)
