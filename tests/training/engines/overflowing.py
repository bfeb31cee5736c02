"""Run by tests in each of several processes: fp16 branches under an engine, and their overflows.

Arguments: the ZeRO stage (0: whole replicas) or `groups` for a group that shards, the number of
updates, then UPDATE:RANK:BRANCH for each overflow. Prints the scales after every update, which
updates were applied, and the final weights.
"""

import json
import sys

import torch
from torch import Tensor, nn

from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.processes.process_group import init_process_group
from dalle_cli.schedules import fix_schedules
from dalle_cli.training.engines.choice import choose_engine, make_engine
from dalle_cli.training.optimization.gradient_scaling import scale_gradients

N_BRANCHES, WIDTH = 4, 16
INFINITE = 1e30  # times a gradient: too much for fp16


class Branch(nn.Module):
    """A residual branch that can be told to overflow in backward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.gain = 1.0

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y.detach() + self.gain * (y - y.detach())


class Stream(nn.Module):
    """Branches around an identity path."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(Branch() for _ in range(N_BRANCHES))

    def matrices(self) -> list[nn.Parameter]:
        return [p for p in self.parameters() if p.ndim == 2]

    def forward(self, x: Tensor) -> Tensor:
        for branch in self.branches:
            x = x + branch(x)
        return x


def main(engine_name: str, n_updates: int, overflows: list[str]) -> None:
    events = {tuple(map(int, event.split(":"))) for event in overflows}
    with init_process_group(torch.device("cpu")) as world:
        torch.manual_seed(0)
        model = Stream()
        branches = list(model.branches)
        scales = scale_gradients(branches, 1, world.device)
        division = f"zero_stage={engine_name}" if engine_name != "groups" else "shard_group=2"
        given = load_recipe("transformer/tiny", [f"runtime.{division}"], kind="transformer")
        recipe = fix_schedules(given)
        engine = make_engine(
            choose_engine(recipe, world.size, None),
            recipe,
            model=model,
            world=world,
            scales=scales,
        )
        history, applied = [], []
        for update in range(n_updates):
            for number, branch in enumerate(branches):
                branch.gain = INFINITE if (update, world.rank, number) in events else 1.0
            generator = torch.Generator().manual_seed(update * world.size + world.rank)
            loss = engine.module(torch.randn(3, WIDTH, generator=generator)).square().mean() * 1e-3
            engine.backward(loss)
            applied.append(engine.update())
            history.append(scales.scales.tolist())
        weights = {
            name: tensor.tolist() for name, tensor in engine.state().tensors["parameters"].items()
        }
    print(json.dumps({"scales": history, "applied": applied, "weights": weights}))


main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
