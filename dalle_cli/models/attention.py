"""Multi-head attention over a stream of text and image slots.

Knows nothing of which slot may see which: it is given a mask, or something that computes the same faster.
Axes used below:

    B batch    N slots given    S slots in all    D model width    H heads    K width of a head
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Attend = Callable[
    [Tensor, Tensor, Tensor], Tensor
]  # query, key and value to averaged values, all [B, H, S, K]

SHORT = 256  # slots


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Average values [B, H, S, K] by one softmax over the keys that each query [B, H, N, K] may see.

    mask     bool [N, S], True = may attend; None: every key
    returns  [B, H, N, K]

    On a CPU and for short streams the plain products are several times as fast, forward and backward, as the fused
    kernel, whose tiles they do not fill.
    """
    if query.device.type == "cpu" and key.shape[2] <= SHORT:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)  # [B, H, N, S]
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(dim=-1) @ value
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


class Attention(nn.Module):
    """One softmax over all allowed keys, text and image together; four separate D x D matrices with biases.

    Separate because the published compression treats query, key and value matrices one by one (appendix E, table 2).
    """

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"d_model must be divisible by n_heads: {d_model} by {n_heads}")
        self.n_heads = n_heads
        self.d_head = d_model // n_heads
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model)
        self.value = nn.Linear(d_model, d_model)
        self.output = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """Attend within x [B, S, D]; returns [B, S, D]."""
        return self._merge(attend(*self._project(x)))

    def _project(self, x: Tensor) -> list[Tensor]:
        heads = (self.n_heads, self.d_head)
        return [
            p(x).unflatten(-1, heads).transpose(1, 2) for p in (self.query, self.key, self.value)
        ]  # [B, H, N, K]

    def _merge(self, heads: Tensor) -> Tensor:
        return self.output(heads.transpose(1, 2).flatten(2))
