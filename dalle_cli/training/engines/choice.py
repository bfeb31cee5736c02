"""Which engine trains a run, and its making: the one place that knows them all."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from dalle_cli.config import Recipe, RuntimeTable, TransformerRecipe
from dalle_cli.errors import DalleError, UsageError
from dalle_cli.loading import build_transformer
from dalle_cli.runtime.distributed import World
from dalle_cli.training.engines.deepspeed_config import read_config, zero_config
from dalle_cli.training.engines.engine import Engine, Trainable
from dalle_cli.training.engines.powersgd import PowerSGD
from dalle_cli.training.engines.replica import ReplicaEngine
from dalle_cli.training.memory import largest_layer
from dalle_cli.training.optimization.gradient_scaling import BranchScales
from dalle_cli.training.optimization.loss_scaling import LossScale

HOW_TO_START = "start several with `--gpus N`, torchrun, deepspeed or srun"


@dataclass(frozen=True)
class EngineChoice:
    """The engine that `runtime.engine` stands for, given the processes there are.

    zero  DeepSpeed's configuration, for its engine
    """

    name: Literal["local", "ddp", "deepspeed"]
    n_processes: int
    zero: dict[str, Any] | None = None

    def __str__(self) -> str:
        if self.name == "local":
            return "one process"
        how = (
            f"ZeRO {self.zero['zero_optimization']['stage']} (deepspeed)"
            if self.zero
            else "whole replicas (ddp)"
        )
        return f"{'one process' if self.n_processes == 1 else f'{self.n_processes} processes'} with {how}"


def choose_engine(recipe: Recipe, n_processes: int, deepspeed_file: Path | None) -> EngineChoice:
    """Find the engine.

    Raises UsageError where the processes there are, or a DeepSpeed file, don't go with it, and DalleError where
    DeepSpeed is missing.
    """
    runtime, name = recipe.runtime, _name(recipe.runtime, n_processes)
    if name == "local" and n_processes > 1:
        message = f"`runtime.engine` is local, which trains in one process, and {n_processes} were started"
        raise UsageError(message, "`--set runtime.engine=auto`")
    if name == "ddp" and n_processes == 1:
        raise UsageError(
            "`runtime.engine` is ddp, for several processes, and this is one alone", HOW_TO_START
        )
    if name == "deepspeed" and n_processes == 1 and not runtime.offload:
        message = f"`runtime.zero_stage` {runtime.zero_stage} deals out over processes, and this is one alone"
        raise UsageError(message, f"{HOW_TO_START}, or `--set runtime.zero_stage=0`")
    if name != "deepspeed":
        if deepspeed_file is not None:
            hint = "`--set runtime.zero_stage=1`, 2 or 3, or say so in the file"
            raise UsageError(f"--deepspeed {deepspeed_file}, but `runtime.zero_stage` is 0", hint)
        return EngineChoice(name, n_processes)
    if importlib.util.find_spec("deepspeed") is None:
        raise DalleError("DeepSpeed is not installed", "`make install` brings it")
    assert isinstance(recipe, TransformerRecipe)  # others refuse a zero_stage
    with torch.device("meta"):
        bucket = largest_layer(build_transformer(recipe.model, recipe.tokenizer.vocab_size))
    given = {} if deepspeed_file is None else read_config(deepspeed_file)
    return EngineChoice(name, n_processes, zero_config(recipe, n_processes, bucket, given))


def _name(runtime: RuntimeTable, n_processes: int) -> Literal["local", "ddp", "deepspeed"]:
    if runtime.engine != "auto":
        return runtime.engine
    if runtime.zero_stage:
        return "deepspeed"
    return "ddp" if n_processes > 1 else "local"


def make_engine(
    choice: EngineChoice,
    recipe: Recipe,
    model: Trainable,
    world: World,
    scales: BranchScales | LossScale | None,
) -> Engine:
    """Make the engine chosen, around a model on the CPU; scales: of what trains in fp16."""
    if choice.zero is not None:
        os.environ["DS_ACCELERATOR"] = world.device.type  # read when DeepSpeed is imported
        from dalle_cli.training.engines.deepspeed import DeepSpeedEngine  # seconds of imports

        return DeepSpeedEngine(model, recipe.optimizer, recipe.ema, world, choice.zero, scales)
    return ReplicaEngine(
        model, recipe.optimizer, recipe.ema, world, scales, _compression(recipe, model, world)
    )


def _compression(recipe: Recipe, model: Trainable, world: World) -> PowerSGD | None:
    """Make what compresses gradients between processes, where the recipe asks for it and there are several."""
    table = recipe.powersgd if isinstance(recipe, TransformerRecipe) else None
    if table is None or table.rank == 0 or world.size == 1:
        return None
    matrices = {id(matrix) for matrix in model.matrices()}
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if id(p) in matrices}
    return PowerSGD(shapes, table.rank, recipe.training.seed, world.size, world.device)
