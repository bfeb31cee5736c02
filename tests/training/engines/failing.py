"""Run by a test in each of two processes: the second fails while it computes with the average.

Argument: the ZeRO stage. Prints what was raised; a process that waited for the other would not.
"""

import json
import os
import sys

import torch

from dalle_cli.loading import build_transformer
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.processes.process_group import init_process_group
from dalle_cli.training.activation_checkpointing import checkpoint_activations
from dalle_cli.training.engines.choice import choose_engine, make_engine

with init_process_group(torch.device("cpu")) as world:
    recipe = load_recipe(
        "transformer/tiny", [f"runtime.zero_stage={sys.argv[1]}"], kind="transformer"
    )
    model = build_transformer(recipe.model, 300)
    checkpoint_activations(model.half_precision_modules())
    engine = make_engine(choose_engine(recipe, world.size, None), recipe, model=model, world=world)
    raised = ""
    try:
        with engine.averaged():
            if not world.is_main:
                raise KeyError("in the second process")
            print(json.dumps(raised), flush=True)
            os._exit(0)
    except KeyError as error:
        raised = str(error)
    print(json.dumps(raised), flush=True)
    os._exit(0)
