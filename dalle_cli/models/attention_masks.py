"""Attention masks: the paper's three sparse ones, and two dense causal ones.

Ramesh et al. 2021, section 2.2 and figure 11. These are pure functions of sizes and the only truth
about which key a query may see: every faster attention is tested against them. A stream has T text
slots, then W*W image slots in raster order; S = T + W*W.
"""

from typing import Literal

import torch
from torch import Tensor

Kind = Literal["row", "column", "convolutional", "full"]


def layer_kinds(n_layers: int) -> list[Kind]:
    """Return the kind of mask of each layer.

    Counted from 1, the layers 2, 6, 10, ... are column layers, the last one is convolutional, and
    the others are row layers.
    """
    # of the paper's 64 layers 47 are row, 16 column and 1 convolutional
    kinds: list[Kind] = ["column" if i % 4 == 1 else "row" for i in range(n_layers)]
    return [*kinds[:-1], "convolutional"]


def attention_mask(kind: Kind, text_len: int, grid_size: int, kernel_size: int = 11) -> Tensor:
    """Build the mask of one kind: bool [S, S], True where the query (first axis) may see the key.

    Text queries see the text up to themselves and no image; image queries see all text slots,
    padding included, and the image slots that `image_mask` allows.
    """
    n_slots = text_len + grid_size**2
    mask = torch.ones(n_slots, n_slots, dtype=torch.bool)
    if mask.is_meta:
        return mask  # of which only the shape counts, and torch would import its compiler

    # the triangle is right for all but the image-to-image part: text comes first in the stream
    mask = mask.tril()
    mask[text_len:, text_len:] = image_mask(kind, grid_size, kernel_size=kernel_size)
    return mask


def image_mask(kind: Kind, grid_size: int, *, kernel_size: int = 11) -> Tensor:
    """Build the image-to-image part, bool [W*W, W*W], from the distance back in raster order.

    row            itself and the W slots before, which reach around into the line above
    column         itself and the same column in the lines above
    convolutional  the causal half of a kernel centred on the query, which wraps like the row
    full           itself and everything before
    """
    slots = torch.arange(grid_size**2)
    back = slots[:, None] - slots[None, :]  # [W*W, W*W], how far a key lies before a query

    if kind == "full":
        return back >= 0
    if kind == "row":
        return (back >= 0) & (back <= grid_size)
    if kind == "column":
        return (back >= 0) & (back % grid_size == 0)
    if kind == "convolutional":
        return torch.isin(back, torch.tensor(convolution_offsets(grid_size, kernel_size)))
    raise ValueError(f"unknown kind of attention: {kind!r}")


def convolution_offsets(grid_size: int, kernel_size: int) -> list[int]:
    """Return how many slots back a convolutional query sees, in ascending order.

    They are a*W + b >= 0 with 0 <= a <= h and -h <= b <= h, where h is half the kernel. Raises
    ValueError for an even kernel_size.
    """
    if kernel_size % 2 == 0:
        raise ValueError(f"a centred kernel has an odd size: {kernel_size}")
    half = (kernel_size - 1) // 2

    # no test for borders: like the row mask, a kernel wraps around in raster order (figure 11)
    offsets = {a * grid_size + b for a in range(half + 1) for b in range(-half, half + 1)}
    return sorted(offset for offset in offsets if offset >= 0)


def causal_padding_mask(is_visible: Tensor) -> Tensor:
    """Build causal masks that hide padding: bool [B, 1, S, S], True where the query may see.

    is_visible  bool [B, S], False for padding

    Padding sees itself, so that no row is empty; nothing else sees it.
    """
    n_slots = is_visible.shape[1]
    causal = torch.ones(n_slots, n_slots, dtype=torch.bool, device=is_visible.device).tril()
    itself = torch.eye(n_slots, dtype=torch.bool, device=is_visible.device)
    return (causal & (is_visible[:, None] | itself))[:, None]  # [B, 1, S, S]
