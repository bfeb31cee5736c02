"""Sampling of 256 image tokens by a small transformer, whose captions fill 64 text slots.

Usage: growing_generation.py SAMPLES CAPTIONS

What theory says is counted three ways: operations; bytes that must be read, the weights and the
keys and values that each step attends to; and bytes that are held, the weights and the KV cache.
"""

import sys

import torch
from measuring import measure, peak_bytes

from dalle_cli.config import TrainedTransformerTable
from dalle_cli.generation.cached_transformer import kv_cache_bytes
from dalle_cli.generation.sampling import Sampler, SamplingSettings
from dalle_cli.loading import build_transformer
from dalle_cli.models.transformer import Transformer
from dalle_cli.runtime.devices import open_device
from dalle_cli.training.planning.flops import forward_flops

SIZES = TrainedTransformerTable(
    text_len=64, text_vocab_size=512, grid_size=16, image_vocab_size=512,
    n_layers=4, d_model=256, n_heads=4, kernel_size=5,
)  # fmt: skip
IMAGE_LEN = SIZES.grid_size**2


def main(n_samples: int, n_captions: int) -> None:
    """Time the sampling of a batch, one token of each sample at a time."""
    torch.manual_seed(0)
    open_device("cpu", "fp32")
    base_bytes = peak_bytes()

    transformer = build_transformer(SIZES, SIZES.text_vocab_size).requires_grad_(False)
    transformer.image_head.reset_parameters()
    sampler = Sampler(transformer, SamplingSettings())
    captions = torch.randint(SIZES.text_vocab_size, (n_captions, SIZES.text_len))
    captions[:, -1] = -1
    text = captions.repeat_interleave(n_samples // n_captions, 0)
    uniforms = torch.rand(n_samples, IMAGE_LEN, dtype=torch.float64)

    weights = sum(parameter.nbytes for parameter in transformer.parameters())
    cache = kv_cache_bytes(transformer, n_samples, n_captions=n_captions)
    measure(
        lambda: sampler.sample(text, uniforms),
        flops_of(n_samples, n_captions),
        bytes_read(transformer, n_samples, n_captions),
        base_bytes=base_bytes,
        expected_bytes=weights + cache,
    )


def flops_of(n_samples: int, n_captions: int) -> int:
    """Count the operations; the text slots of a caption pass the layers once, and no head."""
    of_text = 24 * SIZES.d_model**2 * SIZES.n_layers * SIZES.text_len
    text_head = 2 * SIZES.d_model * SIZES.text_vocab_size * SIZES.text_len
    of_image = forward_flops(SIZES) - of_text - text_head
    return n_captions * of_text + n_samples * of_image


def bytes_read(transformer: Transformer, n_samples: int, n_captions: int) -> int:
    """Return the bytes that all steps must read.

    A row layer attends to the captions and about a row, a column layer to the captions and, on
    average, to half a column.
    """
    weights = sum(p.nbytes for p in transformer.blocks.parameters())
    head = transformer.image_head.weight.nbytes
    captions = kv_cache_bytes(transformer, 0, n_captions=n_captions)
    places = {"row": SIZES.grid_size, "column": SIZES.grid_size / 2}
    per_place = 2 * SIZES.d_model * 4  # a key and a value
    samples = sum(places.get(kind, SIZES.kernel_size**2 / 2) for kind in transformer.kinds)
    return int(IMAGE_LEN * (weights + head + captions + n_samples * samples * per_place))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
