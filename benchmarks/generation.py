"""Generation by our transformer at the sizes of the training step: prefill and 1,024 tokens.

Usage: generation.py SAMPLES CAPTIONS TEXT_LEN fp32|bf16 eager|compiled
"""

import sys

import torch
from measuring import measure
from step_sizes import (
    D_MODEL,
    GRID_SIZE,
    IMAGE_VOCAB_SIZE,
    KERNEL_SIZE,
    N_HEADS,
    N_LAYERS,
    TEXT_VOCAB_SIZE,
)

from dalle_cli.config import TransformerModelTable
from dalle_cli.generation.cached_transformer import kv_cache_bytes
from dalle_cli.generation.sampling import Sampler, SamplingSettings
from dalle_cli.loading import build_transformer
from dalle_cli.models.transformer import Transformer
from dalle_cli.runtime.devices import open_device
from dalle_cli.runtime.precision import DTYPES

IMAGE_LEN = GRID_SIZE**2


def main(n_samples: str, n_captions: str, text_len: str, precision: str, way: str) -> None:
    """Time the sampling of a batch."""
    torch.manual_seed(0)
    open_device("cpu", "fp32")

    transformer = random_transformer(int(text_len))
    dtype = DTYPES.get(precision, torch.float32)
    sampler = Sampler(
        transformer,
        SamplingSettings(),
        dtype=dtype,
        compiled_batch_size=int(n_samples) if way == "compiled" else 0,
    )

    captions = torch.randint(TEXT_VOCAB_SIZE, (int(n_captions), int(text_len)))
    captions[:, -1] = -1
    text = captions.repeat_interleave(int(n_samples) // int(n_captions), 0)
    uniforms = torch.rand(int(n_samples), IMAGE_LEN, dtype=torch.float64)

    n_bytes = bytes_of_step(
        transformer, dtype, n_samples=int(n_samples), n_captions=int(n_captions)
    )
    measure(lambda: sampler.sample(text, uniforms), moved=IMAGE_LEN * n_bytes)


def random_transformer(text_len: int) -> Transformer:
    """Build a transformer whose heads are random, too."""
    model = TransformerModelTable(
        text_len=text_len, grid_size=GRID_SIZE, image_vocab_size=IMAGE_VOCAB_SIZE,
        n_layers=N_LAYERS, d_model=D_MODEL, n_heads=N_HEADS, kernel_size=KERNEL_SIZE,
    )  # fmt: skip
    transformer = build_transformer(model, TEXT_VOCAB_SIZE).requires_grad_(False)
    transformer.image_head.reset_parameters()
    return transformer


def bytes_of_step(
    transformer: Transformer, dtype: torch.dtype, *, n_samples: int, n_captions: int
) -> int:
    """Return the bytes that one step must read: all weights, and the keys and values attended to.

    A column layer attends to one column.
    """
    weights = sum(p.numel() for p in transformer.blocks.parameters()) * dtype.itemsize
    head = transformer.image_head.weight.nbytes
    unread = transformer.kinds.count("column") * (IMAGE_LEN - GRID_SIZE)
    cache = (
        kv_cache_bytes(transformer, n_samples, n_captions=n_captions, dtype=dtype)
        - 2 * n_samples * unread * D_MODEL * dtype.itemsize
    )
    return weights + head + cache


if __name__ == "__main__":
    main(*sys.argv[1:])
