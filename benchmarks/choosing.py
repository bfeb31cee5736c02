"""Choosing one token per sample from its logits, 1,024 times, without a transformer.

Usage: choosing.py SAMPLES TOP_K TOP_P
"""

import sys

import torch
from measuring import measure
from step_sizes import GRID_SIZE, IMAGE_VOCAB_SIZE

from dalle_cli.generation.sampling import SamplingSettings, sample_tokens, token_probabilities
from dalle_cli.runtime.devices import open_device


@torch.inference_mode()
def main(n_samples: str, top_k: str, top_p: str) -> None:
    """Time as many choices as a picture has tokens."""
    open_device("cpu", "fp32")
    torch.manual_seed(0)
    logits = torch.randn(int(n_samples), IMAGE_VOCAB_SIZE)
    uniforms = torch.rand(int(n_samples), dtype=torch.float64)
    settings = SamplingSettings(top_k=int(top_k), top_p=float(top_p))

    def sample() -> None:
        for _ in range(GRID_SIZE**2):
            sample_tokens(token_probabilities(logits, settings), uniforms)

    measure(sample)


if __name__ == "__main__":
    main(*sys.argv[1:])
