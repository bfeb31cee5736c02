"""Run by a test in each of two processes that share a GPU: replicas that sum through gloo.

NCCL wants a GPU for each process. Argument: the device. Prints losses, by case.
"""

import json
import sys
from dataclasses import replace
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from trained_models import BATCH, build

from dalle_cli.runtime.distributed import World
from dalle_cli.runtime.processes.ranks import ranks_of_environment

N_UPDATES = 5
PRECISIONS = {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16", "compressed": "fp32"}


def losses(name: str, world: World) -> list[float]:
    """Train the transformer, each process on its half of a batch; return the batch's losses."""
    changes = ["powersgd.rank=4096"] if name == "compressed" else []
    trained = build("transformer", PRECISIONS[name], world.device, world, changes=changes)
    share = world.share(BATCH)
    text, image = (tensor[share.start : share.stop] for tensor in trained.given)

    found = []
    for _ in range(N_UPDATES):
        text_loss, image_loss, _ = trained.engine.module(text, image)
        loss = (text_loss + image_loss) / (BATCH * image.shape[1])
        trained.engine.backward(loss)
        total = loss.detach().double()
        world.all_reduce(total)
        trained.engine.observe(total)
        assert trained.engine.update()
        found.append(float(total))
    return found


def gathered(world: World) -> dict[str, Any]:
    """Return what collectives make of small tensors and of objects."""
    rank = torch.full((2,), float(world.rank), device=world.device)
    tensors: list[Tensor] = world.all_gather_tensors(rank)
    objects = world.all_gather([{"rank": world.rank}])
    world.barrier()
    return {
        "tensors": torch.cat(tensors).tolist(),
        "objects": objects,
        "sent by the first": world.broadcast(f"from {world.rank}"),
    }


def main(name: str) -> None:
    torch.distributed.init_process_group("gloo")
    device = torch.device("cuda", 0) if name == "cuda" else torch.device(name)
    world = World(ranks_of_environment(), device)
    alone = World(replace(world.ranks, rank=0, size=1), device)
    found = {case: [losses(case, world), losses(case, alone)] for case in PRECISIONS}
    print(json.dumps({"losses": found, "gathered": gathered(world)}))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
