"""Ceilings of this machine's CPU: matrix products, convolutions and copies of sizes that suit it.

Usage: ceilings.py matmul|convolution|copy fp32|bf16 highest|fastest

The last word is the route for fp32 matrices: torch's default, or the fastest that is still fp32.
"""

import sys

import torch
import torch.nn.functional as F
from measuring import measure

from dalle_cli.runtime.devices import use_fast_fp32_matmul

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MATRIX_SIZE = 2048
COPIED = 2**28  # bytes, more than caches hold


@torch.inference_mode()
def main(what: str, dtype: str, route: str) -> None:
    """Time one kind of work."""
    if route == "fastest":
        use_fast_fp32_matmul()
    {"matmul": matmul, "convolution": convolution, "copy": copy}[what](DTYPES[dtype])


def matmul(dtype: torch.dtype) -> None:
    x, weight = (torch.randn(MATRIX_SIZE, MATRIX_SIZE, dtype=dtype) for _ in range(2))
    measure(lambda: F.linear(x, weight), flops=2 * MATRIX_SIZE**3)


def convolution(dtype: torch.dtype) -> None:
    """Time a 3x3 layer from the middle of the paper's encoder."""
    x, weight = torch.randn(4, 256, 64, 64, dtype=dtype), torch.randn(256, 256, 3, 3, dtype=dtype)
    measure(lambda: F.conv2d(x, weight, padding=1), flops=2 * weight.numel() * 4 * 64 * 64)


def copy(dtype: torch.dtype) -> None:
    source = torch.ones(COPIED // dtype.itemsize, dtype=dtype)
    target = torch.empty_like(source)
    measure(lambda: target.copy_(source), moved=2 * COPIED)


if __name__ == "__main__":
    main(*sys.argv[1:])
