"""Training step of our dVAE on 2 pictures of 256 px, loss and backward, as in `dalle train-dvae`.

small: about as many parameters as dalle-pytorch's in `peer_dvae_training_step.py` (3.3 against 3.1
million); paper: the paper's shape.

Usage: dvae_training_step.py small|paper fp32|bf16
"""

import sys

import torch
from measuring import count_flops, measure

from dalle_cli.data.loader import Batch
from dalle_cli.loading import build_dvae
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.devices import open_device
from dalle_cli.runtime.precision import Precision, apply_precision
from dalle_cli.training.tasks.dvae import DiscreteVAETask

BATCH_SIZE = 2
SMALL = ["model.n_hidden=32", "model.n_init=64", "model.blocks_per_group=1"]


def main(size: str, precision: Precision) -> None:
    """Time steps on one batch of random pixels."""
    torch.manual_seed(0)
    device, _ = open_device("cpu", precision)

    recipe = load_recipe("dvae/paper", SMALL if size == "small" else [])
    dvae = build_dvae(recipe.model).to(memory_format=torch.channels_last)
    apply_precision(dvae, precision, device)
    task = DiscreteVAETask(dvae, recipe.loss, seed=0)
    batch = Batch(
        images=torch.rand(BATCH_SIZE, 3, dvae.image_size, dvae.image_size),
        image_tokens=None,
        positions=list(range(BATCH_SIZE)),
        text_tokens=None,
        captions=[""] * BATCH_SIZE,
        global_size=BATCH_SIZE,
        global_text_tokens=0,
        are_cut=[False] * BATCH_SIZE,
    )

    def step() -> None:
        dvae.zero_grad(set_to_none=True)
        loss, _ = task.loss(batch, step=0)
        loss.backward()

    measure(step, count_flops(step))


if __name__ == "__main__":
    main(*sys.argv[1:])
