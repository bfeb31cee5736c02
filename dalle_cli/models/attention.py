"""Multi-head attention over a stream of text and image slots.

It does not know which slot may see which: it is given a mask, or a function that computes the same
result faster. Axes used below:

    B batch    N slots given    S slots in all    D model width    H heads    K width of a head
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# from query, key and value to averaged values, all [B, H, S, K]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

SHORT = 256  # slots; a shorter stream does not fill the tiles of the fused CPU kernel


def attend(query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None) -> Tensor:
    """Average values by one softmax over the keys that each query may see.

    query       [B, H, N, K]
    key, value  [B, H, S, K]
    mask        bool [N, S] or [B, 1, N, S], True = may attend; None: every key
    returns     [B, H, N, K]
    """
    if query.device.type == "cpu" and key.shape[2] <= SHORT:
        # several times as fast as the fused kernel, forward and backward
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)  # [B, H, N, S]
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(dim=-1) @ value  # [B, H, N, K]

    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)  # [B, H, N, K]


class Attention(nn.Module):
    """Multi-head attention with four separate D x D matrices and biases.

    A single softmax over all allowed keys, text and image together, worked better in the paper than
    one for each (Ramesh et al. 2021, footnote 7).
    """

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"d_model must be divisible by n_heads: {d_model} by {n_heads}")
        self.n_heads = n_heads
        self.d_head = d_model // n_heads

        # separate, as the published compression treats these matrices (appendix E, table 2)
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model)
        self.value = nn.Linear(d_model, d_model)
        self.output = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """Attend within x [B, S, D]; returns [B, S, D]."""
        merged = attend(*self._project(x))  # [B, H, S, K]
        merged = merged.transpose(1, 2).flatten(2)  # [B, S, D]
        return self.output(merged)

    def _project(self, x: Tensor) -> list[Tensor]:
        heads = (self.n_heads, self.d_head)
        return [
            projection(x).unflatten(-1, heads).transpose(1, 2)  # [B, H, S, K]
            for projection in (self.query, self.key, self.value)
        ]
