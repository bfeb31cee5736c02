"""Pictures of 256 px to image tokens, or back, by a dVAE of the paper's size.

Usage: dvae_pass.py encode|decode fp32|bf16
"""

import sys

import torch
from measuring import count_flops, measure
from torch import Tensor

from dalle_cli.loading import build_dvae
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.devices import open_device
from dalle_cli.runtime.precision import Precision, apply_precision

BATCH_SIZE = 2


@torch.no_grad()
def main(way: str, precision: Precision) -> None:
    """Time batches of random pixels."""
    torch.manual_seed(0)
    device, _ = open_device("cpu", precision)
    dvae = (
        build_dvae(load_recipe("dvae/paper", []).model).to(memory_format=torch.channels_last).eval()
    )
    apply_precision(dvae, precision, device)
    images = torch.rand(BATCH_SIZE, 3, dvae.image_size, dvae.image_size)
    tokens = torch.randint(dvae.vocab_size, (BATCH_SIZE, dvae.grid_size**2))

    def work() -> Tensor:
        return dvae.image_tokens(images) if way == "encode" else dvae.decode(tokens)

    measure(work, count_flops(work))


if __name__ == "__main__":
    main(*sys.argv[1:])
