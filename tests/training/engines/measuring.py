"""Run by a test in each of two processes: the peak of memory that training takes.

Argument: the ZeRO stage, or `groups` for one group that shards. Linux only. Compiled and imported
code is in memory before; each large block goes back to the system as soon as it is freed.
"""

import gc
import json
import os
import sys

if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
    os.execve(
        sys.executable,
        [sys.executable, *sys.argv],
        os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
    )

from pathlib import Path

import torch

from dalle_cli.loading import build_transformer
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.distributed import World
from dalle_cli.runtime.processes.process_group import init_process_group
from dalle_cli.schedules import fix_schedules
from dalle_cli.training.activation_checkpointing import checkpoint_activations
from dalle_cli.training.engines.choice import choose_engine, make_engine
from dalle_cli.training.engines.engine import Engine
from dalle_cli.training.engines.shard_places import matrix_shards
from dalle_cli.training.planning.memory import group_state_bytes, largest_layer, state_bytes

IN_GROUPS = sys.argv[1] == "groups"
STAGE = 0 if IN_GROUPS else int(sys.argv[1])
TEXT_LEN, GRID, WORDS = 4, 2, 300  # few slots, so that activations take next to nothing


def memory(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def build(d_model: int, n_layers: int, world: World) -> tuple[Engine, dict[str, int]]:
    sizes = {
        "d_model": d_model,
        "n_layers": n_layers,
        "text_len": TEXT_LEN,
        "grid_size": GRID,
        "image_vocab_size": WORDS,
    }
    changes = [f"model.{key}={value}" for key, value in sizes.items()]
    changes += [
        f"runtime.zero_stage={STAGE}",
        f"runtime.shard_group={2 if IN_GROUPS else 0}",
        f"tokenizer.vocab_size={WORDS}",
        "training.global_batch_size=2",
    ]
    recipe = fix_schedules(load_recipe("transformer/tiny", changes, kind="transformer"))
    model = build_transformer(recipe.model, WORDS)
    checkpoint_activations(model.half_precision_modules())
    n_parameters, largest = sum(p.numel() for p in model.parameters()), largest_layer(model)
    if IN_GROUPS:
        shards = matrix_shards(model.matrices(), world.size)
        estimated = group_state_bytes(recipe, model, shards, size=world.size, rank=0)
    else:
        estimated = state_bytes(STAGE, n_parameters, largest, n_processes=world.size)
    choice = choose_engine(recipe, world.size, None)
    engine = make_engine(choice, recipe, model=model, world=world)
    return engine, {"estimated": estimated}


def train(engine: Engine) -> None:
    for _ in range(2):
        text = torch.tensor([[5, 6, 7, -1]])
        logits = engine.module(text, torch.tensor([[1, 2, 3, 4]]))
        loss = sum(part.square().mean() for part in logits)
        engine.backward(loss)
        del logits, loss
        engine.update()


with init_process_group(torch.device("cpu")) as world:
    engine, *_ = build(32, 2, world)
    train(engine)
    if STAGE:
        engine.module.destroy()
    del engine
    gc.collect()
    before = memory("VmRSS")
    engine, found = build(512, 6, world)
    Path("/proc/self/clear_refs").write_text(
        "5"
    )  # forget the peak so far: the whole model, before it is dealt out
    train(engine)
    found["peak"] = memory("VmHWM") - before
print(json.dumps(found))
