"""An update of a small transformer, optimizer and average included, on image tokens that are given.

Usage: growing_step.py [KEY=VALUE ...]

KEY is one of a recipe's, such as model.d_model or training.global_batch_size. What theory says of
an update is that of `dalle info`: operations, and bytes of weights, state and activations.
"""

import sys

import torch
from measuring import measure, peak_bytes

from dalle_cli.config import TrainedTransformerTable, TransformerRecipe
from dalle_cli.data.loader import Batch
from dalle_cli.loading import build_transformer
from dalle_cli.models.weightless import meta_device
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.devices import open_device
from dalle_cli.runtime.distributed import single_process
from dalle_cli.schedules import fix_schedules
from dalle_cli.training.engines.replica import ReplicaEngine
from dalle_cli.training.loop import train_step
from dalle_cli.training.planning.flops import train_flops
from dalle_cli.training.planning.memory import activation_bytes, state_bytes
from dalle_cli.training.tasks.model_setup import set_up_transformer
from dalle_cli.training.tasks.transformer import TransformerTask

SETTINGS = (
    "model.text_len=64",
    "model.grid_size=16",
    "model.d_model=256",
    "training.global_batch_size=8",
)


def main(settings: list[str]) -> None:
    """Time updates, each on the same batch of random tokens."""
    torch.manual_seed(0)
    device, _ = open_device("cpu", "fp32")
    world = single_process(device)
    recipe = fix_schedules(
        load_recipe("transformer/demo", [*SETTINGS, *settings], kind="transformer")
    )
    flops, expected_bytes = cost(recipe)
    base_bytes = peak_bytes()

    transformer, _ = set_up_transformer(
        recipe, recipe.tokenizer.vocab_size, precision="fp32", world=world
    )
    task = TransformerTask(transformer, None, recipe.loss, recipe.training.seed)
    engine = ReplicaEngine(transformer, recipe.optimizer, ema=recipe.ema, world=world)
    batch = random_batch(recipe)
    measure(
        lambda: train_step(task, engine, batch, 0),
        flops,
        base_bytes=base_bytes,
        expected_bytes=expected_bytes,
    )


def random_batch(recipe: TransformerRecipe) -> Batch:
    """Build a global batch of random tokens, with captions that fill every text slot."""
    model, size = recipe.model, recipe.training.global_batch_size
    tokens = torch.randint(recipe.tokenizer.vocab_size, (size, model.text_len))
    return Batch(
        images=torch.empty(size, 0),
        image_tokens=torch.randint(model.image_vocab_size, (size, model.grid_size**2)),
        positions=list(range(size)),
        text_tokens=tokens,
        captions=[""] * size,
        global_size=size,
        global_text_tokens=tokens.numel(),
        are_cut=[False] * size,
    )


def cost(recipe: TransformerRecipe) -> tuple[int, int]:
    """Return the operations and the bytes of an update, as `dalle info` computes them."""
    sizes = {**recipe.model.model_dump(), "text_vocab_size": recipe.tokenizer.vocab_size}
    model = TrainedTransformerTable(**sizes)
    with meta_device():
        transformer = build_transformer(model, model.text_vocab_size)
    n_parameters = sum(parameter.numel() for parameter in transformer.parameters())

    size = recipe.training.global_batch_size
    state = state_bytes(0, n_parameters, largest=0, n_processes=1)
    activations = activation_bytes(model, "fp32", recomputed=False)
    return size * train_flops(model), state + size * activations


if __name__ == "__main__":
    main(sys.argv[1:])
