"""Attention of one layer, forward and backward, at the sizes of the training step.

Computes either the allowed pairs alone (sparse), or all pairs under a mask (dense).

Usage: attention_layer.py sparse|dense row|column
"""

import importlib.util
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from measuring import measure
from step_sizes import BATCH_SIZE, D_MODEL, GRID_SIZE, KERNEL_SIZE, N_HEADS, TEXT_LEN
from torch import Tensor

from dalle_cli.models.attention_masks import Kind, attention_mask
from dalle_cli.runtime.devices import open_device

SPARSE = "dalle_cli.models.sparse_attention"
SHAPE = (BATCH_SIZE, N_HEADS, TEXT_LEN + GRID_SIZE**2, D_MODEL // N_HEADS)

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def main(way: str, kind: Kind) -> None:
    """Time the attention of one kind of layer."""
    torch.manual_seed(0)
    open_device("cpu", "fp32")
    mask = attention_mask(kind, TEXT_LEN, grid_size=GRID_SIZE, kernel_size=KERNEL_SIZE)
    attend = sparse(kind) if way == "sparse" else dense(mask)

    query, key, value = (torch.randn(SHAPE, requires_grad=True) for _ in range(3))
    gradient = torch.randn(SHAPE)
    flops = 3 * BATCH_SIZE * 2 * 2 * D_MODEL * int(mask.sum())
    measure(
        lambda: torch.autograd.grad(attend(query, key, value), (query, key, value), gradient), flops
    )


def dense(mask: Tensor) -> Attend:
    """Return attention that computes all pairs and masks those that are not allowed."""
    return lambda query, key, value: F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask
    )


def sparse(kind: Kind) -> Attend:
    """Return attention that computes allowed pairs only, if the package has it."""
    if importlib.util.find_spec(SPARSE) is None:
        sys.exit(f"skipped: there is no {SPARSE}")
    from dalle_cli.models.sparse_attention import SparseAttention

    return SparseAttention(kind, TEXT_LEN, GRID_SIZE, KERNEL_SIZE)


if __name__ == "__main__":
    main(*sys.argv[1:])
