"""Generation of 1,024 image tokens by dalle-pytorch, from captions of 64 tokens.

`make bench-peer` installs it. As shipped, it recomputes everything for each token: some lengths
are timed, and those between them are interpolated linearly. With its cache driven by hand, all
tokens are sampled, with full attention in every layer, since its convolutional attention can't be
cached.

Usage: peer_generation.py SAMPLES shipped|cached
"""

import sys
import time

import torch
from measuring import report
from peer_training_step import KINDS, build
from step_sizes import GRID_SIZE, IMAGE_VOCAB_SIZE, TEXT_VOCAB_SIZE
from torch import Tensor

IMAGE_LEN = GRID_SIZE**2
TEXT_LEN = 64
LENGTHS = (1, 256, 512, 768, 1023)  # image tokens before the one that is sampled


@torch.inference_mode()
def main(n_samples: str, way: str) -> None:
    """Time one picture per sample."""
    torch.manual_seed(0)
    text = torch.randint(1, TEXT_VOCAB_SIZE, (int(n_samples), TEXT_LEN))
    report([as_shipped(text) if way == "shipped" else with_its_cache(text)])


def as_shipped(text: Tensor) -> float:
    dalle = build(TEXT_LEN, KINDS).eval()
    tokens = torch.randint(IMAGE_VOCAB_SIZE, (len(text), IMAGE_LEN))
    dalle(text, tokens[:, :1])

    seconds = []
    for length in LENGTHS:
        start = time.perf_counter()
        choose(dalle.forward_with_cond_scale(text, tokens[:, :length], cond_scale=1.0))
        seconds.append(time.perf_counter() - start)

    spans = zip(LENGTHS, LENGTHS[1:], seconds, seconds[1:], strict=False)
    return seconds[0] + sum(
        (end - start) * (before + after) / 2 for start, end, before, after in spans
    )


def with_its_cache(text: Tensor) -> float:
    dalle = build(TEXT_LEN, ("full",), optimize_for_inference=True).eval()
    cache: dict[str, Tensor] = {}
    tokens = torch.empty(len(text), 0, dtype=torch.int64)
    start = time.perf_counter()
    for _ in range(IMAGE_LEN):
        token = choose(dalle(text, tokens, cache=cache)) - dalle.num_text_tokens
        tokens = torch.cat([tokens, token.clamp(0, IMAGE_VOCAB_SIZE - 1)], dim=1)
    return time.perf_counter() - start


def choose(logits: Tensor) -> Tensor:
    """Sample as the package does by default, from the likelier half of both vocabularies."""
    last = logits[:, -1]
    kept, indices = last.topk(last.shape[1] // 2)
    filtered = torch.full_like(last, -torch.inf).scatter(1, indices, kept)
    return filtered.softmax(dim=1).multinomial(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
