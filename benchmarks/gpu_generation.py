"""Image tokens of one caption by `transformer/base`, bf16: prefill and all decode steps.

Usage: gpu_generation.py captured|compiled SAMPLES...
"""

import sys

import torch
from gpu_measuring import forget_peak, measure, open_gpu, tell_trouble
from gpu_training import recipe_of

from dalle_cli.generation.cached_transformer import kv_cache_bytes
from dalle_cli.generation.sampling import Sampler, SamplingSettings
from dalle_cli.loading import build_transformer
from dalle_cli.models.transformer import Transformer

DTYPE = torch.bfloat16


def main(way: str, counts: list[str]) -> None:
    """Measure the sampling of each number of samples, each from a sampler of its own."""
    device, recipe = open_gpu(), recipe_of("base")
    transformer = build_transformer(recipe.model, recipe.tokenizer.vocab_size)
    transformer.image_head.reset_parameters()
    transformer.to(device).eval().requires_grad_(False)
    for n in map(int, counts):
        forget_peak()
        try:
            sample(transformer, n, way=way)
        except Exception as error:
            tell_trouble(title(n, way), error)


def title(n: int, way: str) -> str:
    return f"generation base, {n} x {way}"


def sample(transformer: Transformer, n: int, *, way: str) -> None:
    device = transformer.start_of_text.device
    sampler = Sampler(
        transformer,
        SamplingSettings(),
        dtype=DTYPE,
        compiled_batch_size=n if way == "compiled" else 0,
    )
    text = torch.zeros(n, transformer.text_len, dtype=torch.int64, device=device)
    text[:, -1] = -1
    uniforms = torch.rand(n, transformer.image_len, dtype=torch.float64)

    measure(
        title(n, way),
        lambda: sampler.sample(text, uniforms),
        n_samples=n,
        precision="bf16",
        flops=2 * transformer.image_len * n * n_multiplied(transformer),
        moved=transformer.image_len * bytes_of_step(transformer, n),
    )


def n_multiplied(transformer: Transformer) -> int:
    """Return the weights by which a token is multiplied; its attention is left out."""
    matrices = sum(p.numel() for p in transformer.blocks.parameters())
    return matrices + transformer.image_head.weight.numel()


def bytes_of_step(transformer: Transformer, n: int) -> int:
    """Return the bytes that a step must read: weights, and the keys and values attended to.

    A column layer attends to one column; the head is in fp32.
    """
    weights = sum(p.numel() for p in transformer.blocks.parameters()) * DTYPE.itemsize
    cache = kv_cache_bytes(transformer, n, n_captions=1, dtype=DTYPE)
    unread = transformer.image_len - transformer.grid_size
    width = transformer.start_of_text.numel()
    columns = transformer.kinds.count("column") * 2 * n * unread * width * DTYPE.itemsize
    return weights + transformer.image_head.weight.nbytes + cache - columns


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
