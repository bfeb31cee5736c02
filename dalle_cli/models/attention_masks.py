"""Which key slots a query slot may see: the three sparse masks of the paper and the dense causal one.

Ramesh et al. 2021, section 2.2 and figure 11. Pure functions of sizes and the only truth: every faster attention is
tested against them. A stream has T text slots, then W*W image slots in raster order; S = T + W*W.
"""

from typing import Literal

import torch
from torch import Tensor

Kind = Literal["row", "column", "convolutional", "full"]


def layer_kinds(n_layers: int) -> list[Kind]:
    """Name each layer's mask: column layers are 2, 6, 10, ... (from 1), the last one convolutional, the others row."""
    kinds: list[Kind] = ["column" if i % 4 == 1 else "row" for i in range(n_layers)]
    return [*kinds[:-1], "convolutional"]


def attention_mask(kind: Kind, text_len: int, grid_size: int, kernel_size: int = 11) -> Tensor:
    """Build the mask of one kind: bool [S, S], True where the query (first axis) may attend to the key.

    Text queries see text up to themselves and no image; image queries see all text slots, padding included, and what
    `image_mask` allows.
    """
    n_slots = text_len + grid_size**2
    mask = torch.ones(n_slots, n_slots, dtype=torch.bool).tril()
    mask[text_len:, text_len:] = image_mask(kind, grid_size, kernel_size)
    return mask


def image_mask(kind: Kind, grid_size: int, kernel_size: int = 11) -> Tensor:
    """Build the image-to-image part, bool [W*W, W*W], from the distance back in raster order.

    row            the W slots before, which reach around into the line above, and itself
    column         the same column in the lines above, and itself
    convolutional  the causal half of a kernel centred on the query, wrapping in raster order like the row
    full           everything before, and itself
    """
    slots = torch.arange(grid_size**2)
    back = slots[:, None] - slots[None, :]
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
    """List how far back a convolutional query sees: a*W + b >= 0 with 0 <= a <= h, -h <= b <= h, h half the kernel."""
    if kernel_size % 2 == 0:
        raise ValueError(f"a centred kernel has an odd size: {kernel_size}")
    half = (kernel_size - 1) // 2
    offsets = {a * grid_size + b for a in range(half + 1) for b in range(-half, half + 1)}
    return sorted(offset for offset in offsets if offset >= 0)
