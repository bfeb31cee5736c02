"""Which engine trains a run, chosen from the recipe and the number of processes, and built.

The only module that knows all engines.
"""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dalle_cli.config import (
    ClipRecipe,
    DVAERecipe,
    PowerSGDTable,
    Recipe,
    RuntimeTable,
    TransformerRecipe,
)
from dalle_cli.errors import DalleError, UsageError
from dalle_cli.loading import build_largest_model
from dalle_cli.models.weightless import meta_device
from dalle_cli.runtime.distributed import World
from dalle_cli.training.engines.deepspeed_config import read_config, zero_config
from dalle_cli.training.engines.engine import Engine, ModelT, Trainable
from dalle_cli.training.engines.powersgd import PowerSGD
from dalle_cli.training.engines.replica import ReplicaEngine
from dalle_cli.training.optimization.gradient_scaling import GradientScales
from dalle_cli.training.planning.memory import largest_layer

EngineName = Literal["local", "ddp", "deepspeed", "fsdp"]
HOW_TO_START = "start several with `--gpus N`, torchrun, deepspeed or srun"


@dataclass(frozen=True)
class EngineChoice:
    """The engine that `runtime.engine` stands for, given the number of processes.

    zero        DeepSpeed's configuration, where that engine is chosen
    group_size  of the processes that share a copy of the model, where FSDP2 is chosen
    """

    name: EngineName
    n_processes: int
    zero: dict[str, Any] | None = None
    group_size: int = 1

    def __str__(self) -> str:
        if self.name == "local":
            return "one process"
        processes = "one process" if self.n_processes == 1 else f"{self.n_processes} processes"
        if self.name == "fsdp":
            n_groups = self.n_processes // self.group_size
            groups = "one group" if n_groups == 1 else f"{n_groups} groups"
            return f"{processes} in {groups} of {self.group_size}, sharded inside (fsdp)"
        if self.zero:
            return f"{processes} with ZeRO {self.zero['zero_optimization']['stage']} (deepspeed)"
        return f"{processes} with whole replicas (ddp)"


def choose_engine(
    recipe: Recipe,
    n_processes: int,
    deepspeed_file: Path | None,
    *,
    machine_size: int | None = None,
) -> EngineChoice:
    """Choose the engine of a run.

    machine_size  the number of processes on each machine; None: all are on one

    Raises UsageError where the number of processes, or a DeepSpeed file, does not fit it, and
    DalleError where DeepSpeed is missing.
    """
    name = _name(recipe.runtime, n_processes)
    _check_processes(name, recipe.runtime, n_processes)
    if name != "deepspeed":
        if deepspeed_file is not None:
            hint = "`--set runtime.zero_stage=1`, 2 or 3, or set the stage in the file"
            raise UsageError(f"--deepspeed {deepspeed_file}, but `runtime.zero_stage` is 0", hint)
        if name == "fsdp":
            return EngineChoice(
                name, n_processes, group_size=_group_size(recipe, n_processes, machine_size)
            )
        return EngineChoice(name, n_processes)

    if importlib.util.find_spec("deepspeed") is None:
        hint = "`make install` or `pip install 'dalle-cli[deepspeed]'` installs it"
        raise DalleError("DeepSpeed is not installed", hint)
    assert not isinstance(recipe, DVAERecipe | ClipRecipe)  # which refuse a zero_stage
    with meta_device():
        bucket = largest_layer(build_largest_model(recipe))
    given = {} if deepspeed_file is None else read_config(deepspeed_file)
    zero = zero_config(recipe, n_processes, bucket=bucket, given=given)
    return EngineChoice(name, n_processes, zero)


def _name(runtime: RuntimeTable, n_processes: int) -> EngineName:
    if runtime.engine != "auto":
        return runtime.engine
    if runtime.zero_stage:
        return "deepspeed"
    if runtime.shard_group:
        return "fsdp"
    return "ddp" if n_processes > 1 else "local"


def _check_processes(name: EngineName, runtime: RuntimeTable, n_processes: int) -> None:
    """Raise UsageError where an engine can't train with this number of processes."""
    if name == "local" and n_processes > 1:
        message = f"`runtime.engine` is local, for a single process, but {n_processes} were started"
        raise UsageError(message, "`--set runtime.engine=auto`")
    if name == "ddp" and n_processes == 1:
        message = "`runtime.engine` is ddp, for several processes, but only one was started"
        raise UsageError(message, HOW_TO_START)
    if name == "deepspeed" and n_processes == 1 and not runtime.offload:
        stage = runtime.zero_stage
        message = f"`runtime.zero_stage` {stage} is for several processes, but only one was started"
        raise UsageError(message, f"{HOW_TO_START}, or `--set runtime.zero_stage=0`")

    if name == "fsdp" and n_processes == 1:
        group = runtime.shard_group
        message = (
            f"`runtime.shard_group` {group} is for several processes, but only one was started"
        )
        raise UsageError(message, f"{HOW_TO_START}, or `--set runtime.shard_group=0`")


def _group_size(recipe: Recipe, n_processes: int, machine_size: int | None) -> int:
    """Return the number of processes that share a copy of the model.

    Raises UsageError where they, the model or the compression can't be divided evenly.
    """
    assert isinstance(recipe, TransformerRecipe)  # the other recipes refuse a shard_group
    asked, rank = recipe.runtime.shard_group, recipe.powersgd.rank if recipe.powersgd else 0
    size = asked if isinstance(asked, int) else machine_size or n_processes
    if n_processes % size:
        message = f"{n_processes} processes can't be divided into groups of {size}"
        raise UsageError(message, "change `runtime.shard_group` or the number of processes")

    width = recipe.model.d_model
    for key, value in (("powersgd.rank", rank), ("model.d_model", width)):
        if rank and value % size:
            message = (
                f"`{key}` {value} can't be divided evenly among the {size} processes of a group"
            )
            raise UsageError(message, f"set it to a multiple of {size}, or `powersgd.rank` to 0")
    return size


def make_engine(
    choice: EngineChoice,
    recipe: Recipe,
    *,
    model: ModelT,
    world: World,
    scales: GradientScales | None = None,
    powersgd: PowerSGDTable | None = None,
) -> Engine[ModelT]:
    """Build the engine that was chosen; every process takes part.

    model     on the CPU; the engine moves it to the world's device
    scales    of a model that trains in fp16
    powersgd  compression between the replicas of several processes
    """
    if choice.zero is not None:
        os.environ["DS_ACCELERATOR"] = world.device.type  # read when DeepSpeed is imported
        from dalle_cli.training.engines.deepspeed import DeepSpeedEngine  # seconds of imports

        return DeepSpeedEngine(
            model,
            recipe.optimizer,
            ema=recipe.ema,
            world=world,
            config=choice.zero,
            scales=scales,
        )
    if choice.name == "fsdp":
        from dalle_cli.training.engines.fsdp import FsdpEngine  # seconds of imports

        return FsdpEngine(
            model,
            recipe.optimizer,
            ema=recipe.ema,
            world=world,
            group_size=choice.group_size,
            rank=powersgd.rank // choice.group_size if powersgd else 0,
            seed=recipe.training.seed,
            in_16_bits=powersgd is not None and powersgd.buffers == "paper",
            scales=scales,
        )
    compression = None
    if powersgd is not None and powersgd.rank and world.size > 1:
        compression = _build_compression(model, powersgd, seed=recipe.training.seed, world=world)
    return ReplicaEngine(
        model,
        recipe.optimizer,
        ema=recipe.ema,
        world=world,
        scales=scales,
        compression=compression,
    )


def _build_compression(
    model: Trainable, powersgd: PowerSGDTable, *, seed: int, world: World
) -> PowerSGD:
    """Build the compression of a model's matrices."""
    matrices = {id(matrix) for matrix in model.matrices()}
    shapes = {
        name: (p.shape[0], p.shape[1]) for name, p in model.named_parameters() if id(p) in matrices
    }
    return PowerSGD(
        shapes,
        powersgd.rank,
        seed=seed,
        n_ranks=world.size,
        device=world.device,
        in_16_bits=powersgd.buffers == "paper",
    )
