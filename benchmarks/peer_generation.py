"""1,024 image tokens by dalle-pytorch, in the environment that `make bench-peer` makes; captions of 64 tokens.

As it is shipped it computes everything again for each token: some lengths are timed and the others taken to lie on
straight lines between them. With its cache driven by hand all tokens are drawn, with full attention in all layers,
since its convolutional one can't be cached. Usage: peer_generation.py SAMPLES shipped|cached
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
LENGTHS = (1, 256, 512, 768, 1023)  # of tokens that are there


@torch.inference_mode()
def main(n_samples: str, way: str) -> None:
    """Time one picture of each sample."""
    torch.manual_seed(0)
    text = torch.randint(1, TEXT_VOCAB_SIZE, (int(n_samples), TEXT_LEN))
    report([as_shipped(text) if way == "shipped" else with_its_cache(text)])


def as_shipped(text: Tensor) -> float:
    dalle = build(TEXT_LEN, KINDS).eval()
    tokens = torch.randint(IMAGE_VOCAB_SIZE, (len(text), IMAGE_LEN))
    dalle(text, tokens[:, :1])
    taken = []
    for length in LENGTHS:
        start = time.perf_counter()
        choose(dalle.forward_with_cond_scale(text, tokens[:, :length], cond_scale=1.0))
        taken.append(time.perf_counter() - start)
    spans = zip(LENGTHS, LENGTHS[1:], taken, taken[1:], strict=False)
    return taken[0] + sum(
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
    """Draw as the package does by itself, from the better half of both vocabularies."""
    own = logits[:, -1]
    kept, places = own.topk(own.shape[1] // 2)
    filtered = torch.full_like(own, -torch.inf).scatter(1, places, kept)
    return filtered.softmax(dim=1).multinomial(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
