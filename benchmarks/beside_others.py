"""Updates of `transformer/demo` with dVAE and optimizer, beside programs that each use a core.

Usage: beside_others.py auto|all N_OTHERS

auto adapts the threads to the load as training does; all leaves them as many as torch chose. The
others' processes are of the same priority as this one's, and in the same session.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from measuring import measure

from dalle_cli.config import TransformerRecipe
from dalle_cli.data.loader import Batch
from dalle_cli.loading import build_dvae
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.devices import open_device
from dalle_cli.runtime.distributed import single_process
from dalle_cli.runtime.threads import ThreadsByLoad
from dalle_cli.schedules import fix_schedules
from dalle_cli.training.engines.replica import ReplicaEngine
from dalle_cli.training.loop import train_step
from dalle_cli.training.tasks.model_setup import set_up_transformer
from dalle_cli.training.tasks.transformer import TransformerTask

N_STEPS = 16  # timed together
# ends with its parent, however that ends
OTHER = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"


def main(way: str, n_others: str) -> None:
    """Time updates, each on the same batch of random pixels and tokens."""
    torch.manual_seed(0)
    device, _ = open_device("cpu", "fp32")
    world = single_process(device)

    recipe = fix_schedules(load_recipe("transformer/demo", [], kind="transformer"))
    transformer, _ = set_up_transformer(
        recipe, recipe.tokenizer.vocab_size, precision="fp32", world=world
    )
    dvae = build_dvae(load_recipe("dvae/demo", [], kind="dvae").model)
    dvae.to(memory_format=torch.channels_last)
    task = TransformerTask(transformer, dvae, recipe.loss, recipe.training.seed)
    engine = ReplicaEngine(transformer, recipe.optimizer, ema=recipe.ema, world=world)
    batch = random_batch(recipe, dvae.image_size)

    with others_at_work(int(n_others)):
        threads = ThreadsByLoad(device, lambda note: print(note, file=sys.stderr))
        if way == "auto":
            threads.look()

        def steps() -> None:
            for _ in range(N_STEPS):
                train_step(task, engine, batch, 0)
                if way == "auto":
                    threads.adapt()

        measure(steps)


@contextmanager
def others_at_work(n_others: int) -> Iterator[None]:
    """Run programs of a single thread that never rest, for the duration of a `with`."""
    others = [subprocess.Popen([sys.executable, "-S", "-c", OTHER]) for _ in range(n_others)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def random_batch(recipe: TransformerRecipe, side: int) -> Batch:
    """Build a global batch of random pictures and captions that fill every text slot."""
    size = recipe.training.global_batch_size
    tokens = torch.randint(recipe.tokenizer.vocab_size, (size, recipe.model.text_len))
    return Batch(
        images=torch.randint(256, (size, 3, side, side), dtype=torch.uint8),
        positions=list(range(size)),
        text_tokens=tokens,
        captions=[""] * size,
        global_size=size,
        global_text_tokens=tokens.numel(),
        are_cut=[False] * size,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
