"""Attention by torch's flex_attention, compiled, for GPUs.

It skips blocks of 128 slots that a mask hides entirely. Axes used below:

    B batch    H heads    K width of a head    T text slots    W side of the grid    S = T + W*W
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from dalle_cli.models.attention_masks import Kind, attention_mask

# Each batch size, memory layout and gradient mode has a graph: full and last micro-batches, those
# of validation, previews. At torch's own limit, 8, it would compute all pairs without a word.
MOST_GRAPHS = 64


@functools.cache
def _compiled() -> Callable[..., Any]:
    compiled = torch.compile(flex_attention, dynamic=False, fullgraph=True)

    def run(*arguments: Any, **options: Any) -> Any:
        with torch._dynamo.config.patch(recompile_limit=MOST_GRAPHS):
            return compiled(*arguments, **options)

    return run


class FlexAttention:
    """Attention under one kind's mask, over streams of one shape."""

    def __init__(
        self, kind: Kind, text_len: int, grid_size: int, kernel_size: int, device: torch.device
    ) -> None:
        mask = attention_mask(kind, text_len, grid_size=grid_size, kernel_size=kernel_size)
        mask = mask.to(device)

        # In column-major order the blocks of a column layer are as empty as those of a row layer;
        # in raster order nearly every block has an allowed pair.
        order = torch.arange(len(mask), device=device)
        if kind == "column":
            grid = order[text_len:].view(grid_size, grid_size)  # [W, W]
            order[text_len:] = grid.T.flatten()  # [W*W]
        self._order, self._inverse_order = order, order.argsort()
        self._is_reordered = kind == "column"
        mask = mask[order][:, order]

        n_slots = len(mask)
        self._blocks = create_block_mask(
            lambda batch, head, query, key: mask[query, key],
            None,
            None,
            n_slots,
            n_slots,
            device=device,
        )
        self._flex: Callable[..., Any] = flex_attention
        if device.type == "cuda":
            self._flex = _compiled()

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Average values [B, H, S, K] by one softmax over the keys that each query may see.

        returns  [B, H, S, K]
        """
        if not self._is_reordered:
            return self._flex(query, key, value, block_mask=self._blocks)

        query, key, value = (tensor.index_select(2, self._order) for tensor in (query, key, value))
        output = self._flex(query, key, value, block_mask=self._blocks)
        return output.index_select(2, self._inverse_order)
