"""Attention by torch's flex_attention, compiled: blocks of 128 slots that a mask hides are skipped; for GPUs.

Column layers are computed with the image slots in column-major order, in which their blocks are as empty as a row
layer's: in raster order nearly every block holds something.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from dalle_cli.models.attention_masks import Kind, attention_mask


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(flex_attention, dynamic=False)


class FlexAttention:
    """Attention under one kind's mask, over streams of one shape."""

    def __init__(
        self, kind: Kind, text_len: int, grid_size: int, kernel_size: int, device: torch.device
    ) -> None:
        mask = attention_mask(kind, text_len, grid_size, kernel_size).to(device)
        order = torch.arange(len(mask), device=device)
        if kind == "column":
            order[text_len:] = order[text_len:].view(grid_size, grid_size).T.flatten()
        self._order, self._back = order, order.argsort()
        self._is_reordered = kind == "column"
        mask = mask[order][:, order]
        self._blocks = create_block_mask(
            lambda batch, head, query, key: mask[query, key],
            None,
            None,
            len(mask),
            len(mask),
            device=device,
        )
        self._flex = _compiled() if device.type == "cuda" else flex_attention

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Average values [B, H, S, K] by one softmax over the keys that each query may see; returns [B, H, S, K]."""
        if not self._is_reordered:
            return self._flex(query, key, value, block_mask=self._blocks)
        query, key, value = (tensor.index_select(2, self._order) for tensor in (query, key, value))
        return self._flex(query, key, value, block_mask=self._blocks).index_select(2, self._back)
