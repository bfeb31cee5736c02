"""Training step of dalle-pytorch's dVAE on 2 pictures of 256 px; `make bench-peer` installs it.

3.1 million parameters, 8,192 codes on a grid of 32x32, one residual block.

Usage: peer_dvae_training_step.py highest
"""

import sys
import warnings

import torch
from measuring import count_flops, measure
from peer_training_step import leave_out_taming
from step_sizes import GRID_SIZE, IMAGE_VOCAB_SIZE

BATCH_SIZE = 2
N_HALVINGS = 3  # from pixels to the grid


def main(route: str) -> None:
    """Time steps on one batch of random pixels."""
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    torch.set_float32_matmul_precision(route)
    leave_out_taming()
    from dalle_pytorch import DiscreteVAE

    dvae = DiscreteVAE(
        image_size=GRID_SIZE * 2**N_HALVINGS, num_layers=N_HALVINGS, num_tokens=IMAGE_VOCAB_SIZE,
        codebook_dim=256, hidden_dim=64, num_resnet_blocks=1, kl_div_loss_weight=1.0,
    )  # fmt: skip
    images = torch.rand(BATCH_SIZE, 3, dvae.image_size, dvae.image_size)

    def step() -> None:
        dvae.zero_grad(set_to_none=True)
        dvae(images, return_loss=True).backward()

    measure(step, count_flops(step))


if __name__ == "__main__":
    main(*sys.argv[1:])
