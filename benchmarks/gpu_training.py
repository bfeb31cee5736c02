"""Updates of a transformer by tokens at random, with the optimizer, as `dalle train-transformer`.

Usage: gpu_training.py base|large...
"""

import sys
from typing import Any

import torch
from gpu_measuring import IS_SMALL, forget_peak, measure, open_gpu, tell_trouble

from dalle_cli.config import TrainedTransformerTable
from dalle_cli.data.loader import Batch
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.devices import is_out_of_memory
from dalle_cli.runtime.distributed import single_process
from dalle_cli.schedules import fix_schedules
from dalle_cli.training.engines.choice import choose_engine, make_engine
from dalle_cli.training.loop import train_step
from dalle_cli.training.planning.flops import train_flops
from dalle_cli.training.planning.memory import FP32, activation_bytes
from dalle_cli.training.tasks.model_setup import set_up_transformer
from dalle_cli.training.tasks.transformer import TransformerTask

SMALL = ["model.n_layers=2", "model.d_model=64", "model.n_heads=2", "model.grid_size=8",
         "model.text_len=16", "model.image_vocab_size=64", "tokenizer.vocab_size=300",
         "runtime.micro_batch_size=2"]  # fmt: skip
# weights are read forward and backward, gradients written and read, and the update reads and
# writes weights and two moments
PASSES_OVER_WEIGHTS = 10


def main(names: list[str]) -> None:
    """Measure each recipe with its micro-batch, or the largest half of a half of it that fits."""
    for name in names:
        recipe = recipe_of(name)
        micro_batch_size = recipe.runtime.micro_batch_size
        while not fits(name, micro_batch_size) and micro_batch_size > 1:
            micro_batch_size //= 2


def recipe_of(name: str, *changes: str) -> Any:
    """Load a recipe for one process that holds everything."""
    small = SMALL if IS_SMALL else []
    given = ["runtime.zero_stage=0", *small, *changes]
    return fix_schedules(load_recipe(f"transformer/{name}", given, kind="transformer"))


def fits(name: str, n: int) -> bool:
    """Measure updates by n samples; return whether there was memory for them."""
    title = f"training {name}, {n} x"
    forget_peak()
    try:
        train(title, recipe_of(name, f"training.global_batch_size={n}"), n)
    except Exception as error:
        tell_trouble(title, error)
        return not (isinstance(error, RuntimeError) and is_out_of_memory(error))
    return True


def train(title: str, recipe: Any, n: int) -> None:
    vocab_size, world = recipe.tokenizer.vocab_size, single_process(open_gpu())
    model, _ = set_up_transformer(recipe, vocab_size, precision="bf16", world=world)
    engine = make_engine(choose_engine(recipe, 1, None), recipe, model=model, world=world)
    task = TransformerTask(engine.module, None, recipe.loss, seed=0)  # tokens are given

    table = TrainedTransformerTable(**recipe.model.model_dump(), text_vocab_size=vocab_size)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    kept = n * activation_bytes(table, "bf16", recomputed=False)
    batch = random_batch(recipe, n)
    measure(
        title,
        lambda: train_step(task, engine, batch, n),
        n_samples=n,
        precision="bf16",
        flops=n * train_flops(table),
        moved=2 * kept + PASSES_OVER_WEIGHTS * FP32 * n_parameters,
    )


def random_batch(recipe: Any, n: int) -> Batch:
    """Build a batch of random tokens, with captions that fill every text slot but the last."""
    table = recipe.model
    text = torch.randint(recipe.tokenizer.vocab_size, (n, table.text_len))
    text[:, -1] = -1
    return Batch(
        images=torch.empty(n, 3, 0, 0),
        image_tokens=torch.randint(table.image_vocab_size, (n, table.grid_size**2)),
        positions=list(range(n)),
        text_tokens=text,
        captions=[""] * n,
        global_size=n,
        global_text_tokens=n * (table.text_len - 1),
        are_cut=[False] * n,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
