"""DeepSpeed's ZeRO as an engine: parameters, gradients and moments are partitioned over processes.

Rajbhandari et al. 2020. DeepSpeed partitions, gathers, sums and clips; the update, the average and
the checkpoints are ours. They go through the `Shard`s of `zero_layout`, which say where in
DeepSpeed's flat fp32 partitions a process's part of a parameter is. Neither DeepSpeed's
checkpoints nor its 16-bit modes are used. The only module that imports DeepSpeed; what this module
and `zero_layout` know of its insides is checked whenever an engine is made, and by the tests of
several processes.
"""

import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any, Generic

import deepspeed
import torch
import torch.distributed
from deepspeed.utils import logger
from torch import Tensor
from torch.nn import Parameter

from dalle_cli.config import EmaTable, OptimizerTable
from dalle_cli.errors import DalleError
from dalle_cli.runtime.distributed import World
from dalle_cli.storage.lazy_tensors import Gathered, check_shapes
from dalle_cli.training.engines.engine import EngineState, ModelT, Trainable
from dalle_cli.training.engines.hollow_model import HollowModel
from dalle_cli.training.engines.update_state import UpdateState
from dalle_cli.training.engines.zero_layout import (
    Flats,
    flat_partitions,
    group_numbers,
    shard_of,
    working_copy,
)
from dalle_cli.training.metric_log import Metrics
from dalle_cli.training.optimization.adamw import build_optimizer
from dalle_cli.training.optimization.gradient_scaling import GradientScales


class DeepSpeedEngine(Generic[ModelT]):
    """ZeRO of stage 1, 2 or 3; each process does its share of the batch."""

    def __init__(
        self,
        module: ModelT,
        optimizer: OptimizerTable,
        *,
        ema: EmaTable | None,
        world: World,
        config: dict[str, Any],
        scales: GradientScales | None = None,
    ) -> None:
        """Partition the module, and the state of its optimizer, over the world's processes.

        config  DeepSpeed's, see `deepspeed_config`
        scales  of the module's fp16 branches
        """
        self.world = world
        self.device = world.device
        self._parameters: dict[str, Parameter] = dict(module.named_parameters())
        self._shapes = {name: p.shape for name, p in self._parameters.items()}
        self._hollow = HollowModel(module, world)

        if world.size > 1:
            for parameter in self._parameters.values():
                parameter.register_hook(self._undo_the_mean)
        adamw = build_optimizer(module.matrices(), self._parameters.values(), optimizer)
        self._zero = _initialise(module, adamw, config=config, device=world.device)
        self.module: ModelT = self._zero  # called like the module, whose hooks it runs

        self._stage: int = config["zero_optimization"]["stage"]
        self._masters = flat_partitions(self._zero.optimizer, self._stage)
        self._shards = {
            name: shard_of(p, self._zero.optimizer, stage=self._stage, rank=world.rank)
            for name, p in self._parameters.items()
        }
        self._check_layout()
        groups = [adamw.param_groups[n] for n in group_numbers(self._zero.optimizer, self._stage)]
        for flat, group in zip(self._masters.values(), groups, strict=True):
            adamw.allot(flat, group)
        self._updates = UpdateState(
            adamw, self._masters, table=optimizer, ema=ema, scales=scales, world=world
        )

    def _undo_the_mean(self, gradient: Tensor) -> Tensor:
        """Multiply by the number of processes.

        DeepSpeed averages over processes, but the shares of a loss must be summed.
        """
        return gradient * self.world.size

    def _check_layout(self) -> None:
        for name, shard in self._shards.items():
            master = shard.of(self._masters)
            used = working_copy(self._parameters[name], shard, self._stage)
            if not used.to(master.device).equal(master):
                version = deepspeed.__version__
                raise RuntimeError(f"DeepSpeed {version} lays {name} out in an unknown way")

    @property
    def step(self) -> int:
        return self._updates.step

    @property
    def has_scales(self) -> bool:
        return self._updates.scales is not None

    def can_recover(self) -> bool:
        scales = self._updates.scales
        return scales is not None and scales.can_recover()

    def backward(self, loss: Tensor) -> None:
        scales = self._updates.scales
        self._zero.backward(scales.scaled(loss) if scales else loss)

    def observe(self, loss: float | Tensor) -> None:
        self._updates.observe(loss)

    def update(self) -> bool:
        self._updates.prepare()
        self._zero.step()  # skips by itself, on all processes, where the norm is not finite
        is_applied: bool = self._zero.was_step_applied()
        self._updates.finish(is_applied=is_applied)
        return is_applied

    def discard(self) -> None:
        raise NotImplementedError("recipes with a `zero_stage` refuse what would discard an update")

    def metrics(self) -> Metrics:
        return self._updates.metrics(float(self._zero.get_global_grad_norm()))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        if self._updates.ema is None:
            yield
            return
        self._compute_with(self._updates.ema.weights)
        yield  # no `finally`: a process that fails in here must not wait for the others
        self._compute_with(self._masters)

    @contextmanager
    def whole_model(self) -> Iterator[ModelT | None]:
        yield self._hollow.filled(self.inference_weights())

    def inference_weights(self) -> Gathered:
        return self._gathered(self._updates.inference_weights())

    def state(self) -> EngineState:
        """Return everything a run needs to resume; all processes gather the tensors one by one."""
        tensors: dict[str, Mapping[str, Tensor]] = {
            group: self._gathered(flats) for group, flats in self._updates.weight_groups().items()
        }
        return EngineState(tensors | self._updates.scale_group(), self._updates.numbers())

    @torch.no_grad()
    def restore(self, state: EngineState) -> None:
        for group, flats in self._updates.weight_groups().items():
            stored = state.tensors.get(group, {})
            check_shapes(self._shapes, stored, group)
            for name, shard in self._shards.items():
                if shard.length:
                    shard.of(flats).copy_(shard.cut(stored[name]))
        self._compute_with(self._masters)
        self._updates.restore(state)

    def _gathered(self, flats: Flats) -> Gathered:
        dtypes = {name: flats[shard.flat].dtype for name, shard in self._shards.items()}
        return Gathered(self._shapes, lambda name: self._gather(name, flats), dtypes)

    @torch.no_grad()
    def _gather(self, name: str, flats: Flats) -> Tensor:
        """Gather a parameter, or a tensor laid out like it, from all processes, on the device.

        The codes of moments in 16 bits are summed as fp32, which holds them exactly.
        """
        shard, shape = self._shards[name], self._shapes[name]
        part = shard.of(flats)
        whole = torch.zeros(shape.numel(), device=self.device)
        shard.cut(whole).copy_(part)
        self.world.all_reduce(whole)
        return whole.view(shape).to(part.dtype)

    @torch.no_grad()
    def _compute_with(self, flats: Flats) -> None:
        """Make forward and backward use these weights."""
        self._zero.empty_partition_cache()  # at stage 3, gathered parameters would still be used
        for name, shard in self._shards.items():
            parameter = self._parameters[name]
            if self._stage == 3:
                working_copy(parameter, shard, self._stage).copy_(shard.of(flats))
            else:
                parameter.data.copy_(self._gather(name, flats))


def _initialise(
    module: Trainable,
    optimizer: torch.optim.Optimizer,
    *,
    config: dict[str, Any],
    device: torch.device,
) -> Any:
    """Make DeepSpeed's engine, in silence, which partitions the module and its optimizer's state.

    Raises DalleError where DeepSpeed refuses the configuration.
    """
    os.environ["LOCAL_RANK"] = str(device.index or 0)  # DeepSpeed takes it for the device's number
    logger.setLevel(logging.INFO if config.get("wall_clock_breakdown") else logging.ERROR)
    # an operator for inference, which every process would compile
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed calls a deprecated function for every tensor that it gathers
    warnings.filterwarnings("ignore", "`torch.distributed.*is deprecated", FutureWarning)

    if not torch.distributed.is_initialized():  # a single process, which offloads
        backend = "nccl" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(
            backend, store=torch.distributed.HashStore(), rank=0, world_size=1
        )
    for parameter in module.parameters():  # read as bytes, which has no use for channels last
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    try:
        with redirect_stdout(io.StringIO()):
            deepspeed.init_distributed()
            if config["zero_optimization"]["stage"] == 3:
                for buffer in module.buffers():  # `Init` moves parameters alone
                    buffer.data = buffer.data.to(device)
                deepspeed.zero.Init(module=module, config_dict_or_path=config)
            engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
    except (ValueError, AssertionError) as error:
        raise DalleError(f"DeepSpeed refuses its configuration: {error}") from error
    return engine
