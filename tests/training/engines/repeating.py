"""Run by a test in each of two processes: fresh ZeRO 3 engines, each trained for four updates.

Argument: the number of engines. Prints a checksum of the weights of each.
"""

import hashlib
import json
import sys

import torch

from dalle_cli.loading import build_transformer
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.distributed import World
from dalle_cli.runtime.processes.process_group import init_process_group
from dalle_cli.schedules import fix_schedules
from dalle_cli.training.activation_checkpointing import checkpoint_activations
from dalle_cli.training.engines.choice import choose_engine, make_engine


def trained(world: World) -> str:
    given = load_recipe("transformer/tiny", ["runtime.zero_stage=3"], kind="transformer")
    recipe = fix_schedules(given)
    torch.manual_seed(0)
    model = build_transformer(recipe.model, 300)
    checkpoint_activations(model.half_precision_modules())
    engine = make_engine(choose_engine(recipe, world.size, None), recipe, model=model, world=world)
    for update in range(4):
        generator = torch.Generator().manual_seed(update * world.size + world.rank)
        text = torch.randint(300, (2, 16), generator=generator)
        text[:, -1] = -1
        logits = engine.module(text, torch.randint(64, (2, 16), generator=generator))
        engine.backward(sum(part.square().mean() for part in logits))
        assert engine.update()
        with engine.averaged(), torch.no_grad():
            engine.module(text, torch.zeros(2, 16, dtype=torch.long))
    weights = engine.state().tensors["parameters"]
    digest = hashlib.sha256(
        b"".join(weights[name].numpy().tobytes() for name in weights)
    ).hexdigest()
    engine.module.destroy()
    return digest


with init_process_group(torch.device("cpu")) as world:
    found = [trained(world) for _ in range(int(sys.argv[1]))]
print(json.dumps(found))
