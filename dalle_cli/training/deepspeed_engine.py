"""DeepSpeed's ZeRO behind the verbs of an engine: parameters, gradients and moments dealt out over processes.

Rajbhandari et al. 2020. DeepSpeed deals out, gathers, sums and clips; the update, the average and the checkpoints are
ours, by `Shard`s: where in DeepSpeed's flat fp32 partitions a process's part of a parameter lies. Neither its own
checkpoints nor its 16-bit modes are used. The only module that imports DeepSpeed, whose insides it must know here and
there: the tests of several processes hold it to that.
"""

import copy
import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
import torch.distributed
from deepspeed.utils import logger
from torch import Tensor, nn
from torch.nn import Parameter

from dalle_cli.config import EmaTable, OptimizerTable
from dalle_cli.errors import DalleError
from dalle_cli.training.distributed import World
from dalle_cli.training.ema import Ema
from dalle_cli.training.engine import EngineState, Trainable
from dalle_cli.training.gradient_scaling import BranchScales
from dalle_cli.training.lazy_tensors import Gathered, check_shapes
from dalle_cli.training.metric_log import Metrics
from dalle_cli.training.optimizer import build_optimizer
from dalle_cli.training.schedules import learning_rate

Flats = Mapping[str, Tensor]  # DeepSpeed's flat partitions, or tensors laid out like them, by number


@dataclass(frozen=True)
class Shard:
    """A process's part of a parameter: `length` values, those from `start` on of the parameter laid out flat.

    They lie from `offset` on in the flat partition called `flat`, and likewise in what is laid out like it.
    """

    flat: str
    offset: int
    start: int
    length: int

    def of(self, flats: Flats) -> Tensor:
        """Give the part's values, [length], as a view."""
        return flats[self.flat][self.offset : self.offset + self.length]

    def cut(self, whole: Tensor) -> Tensor:
        """Give the same part of a whole tensor."""
        return whole.flatten()[self.start : self.start + self.length]


class DeepSpeedEngine:
    """ZeRO of stage 1, 2 or 3, each process doing its share of the batch."""

    def __init__(
        self,
        module: Trainable,
        optimizer: OptimizerTable,
        ema: EmaTable | None,
        world: World,
        config: dict[str, Any],
        scales: BranchScales | None = None,
    ) -> None:
        """config: DeepSpeed's, see `deepspeed_config`; scales: of the module's fp16 branches."""
        self.step = 0
        self.world = world
        self.device = world.device
        self._parameters: dict[str, Parameter] = dict(module.named_parameters())
        self._shapes = {name: p.shape for name, p in self._parameters.items()}
        self._hollow = _without_parameters(module)
        self._table = optimizer
        self._optimizer = build_optimizer(module.matrices(), self._parameters.values(), optimizer)
        self._n_applied = 0
        self._scales = scales
        if world.size > 1:
            for parameter in self._parameters.values():
                parameter.register_hook(self._undo_the_mean)
        self.module = _initialise(module, self._optimizer, config, world)
        self._stage: int = self.module.zero_optimization_stage()
        self._masters = _flat_partitions(self.module.optimizer, self._stage)
        self._shards = {name: _shard(self.module.optimizer, p, world) for name, p in self._parameters.items()}
        self._ema = Ema(self._masters, ema) if ema else None

    def _undo_the_mean(self, gradient: Tensor) -> Tensor:
        """DeepSpeed takes the mean over processes; shares of a loss are to be summed."""
        return gradient * self.world.size

    def backward(self, loss: Tensor) -> None:
        self.module.backward(loss)

    def update(self) -> bool:
        self._optimizer.prepare(self._n_applied + 1, learning_rate(self._table, self.step))
        self.module.step()  # skips by itself, on all processes, where the norm is not finite
        is_applied = self.module.was_step_applied()
        if is_applied:
            self._n_applied += 1
            if self._ema:
                self._ema.follow(self._n_applied)
        if self._scales:
            self.world.sum(self._scales.overflowed)
            self._scales.update()
        self.step += 1
        return is_applied

    def metrics(self) -> Metrics:
        norm, lr = float(self.module.get_global_grad_norm()), learning_rate(self._table, self.step - 1)
        return {"train/gradient_norm": norm, "train/lr": lr, **(self._scales.metrics() if self._scales else {})}

    @contextmanager
    def averaged(self) -> Iterator[None]:
        if self._ema is None:
            yield
            return
        self._compute_with(self._ema.weights)
        try:
            yield
        finally:
            self._compute_with(self._masters)

    @contextmanager
    def whole_model(self) -> Iterator[nn.Module | None]:
        gathered = self.inference_weights()
        weights = {name: tensor for name, tensor in gathered.items() if self.world.is_main}
        if not self.world.is_main:
            yield None
            return
        whole = copy.deepcopy(self._hollow)
        whole.load_state_dict(weights, assign=True)
        yield whole.to(self.device)

    def inference_weights(self) -> Gathered:
        return self._gathered(self._ema.weights if self._ema else self._masters)

    def state(self) -> EngineState:
        """Give what a run needs to go on; tensors are gathered one by one, by all processes."""
        tensors: dict[str, Mapping[str, Tensor]] = {g: self._gathered(flats) for g, flats in self._groups().items()}
        numbers = {"step": self.step, "optimizer_updates": self._n_applied}
        if self._scales:
            tensors["grad_scales"] = self._scales.state()
        if self._ema:
            numbers["ema_updates"] = self._ema.n_updates
        return EngineState(tensors, numbers)

    def _groups(self) -> dict[str, Flats]:
        """Name what is laid out like the flat partitions, with themselves, by group."""
        groups: dict[str, Flats] = {"parameters": self._masters}
        for moment in ("exp_avg", "exp_avg_sq"):
            groups[moment] = {name: self._optimizer.moments(flat)[moment] for name, flat in self._masters.items()}
        return groups | ({"ema": self._ema.weights} if self._ema else {})

    @torch.no_grad()
    def restore(self, state: EngineState) -> None:
        """Take over a state of the same model; raises ValueError that names tensors which do not fit."""
        for group, flats in self._groups().items():
            stored = state.tensors.get(group, {})
            check_shapes(self._shapes, stored, group)
            for name, shard in self._shards.items():
                shard.of(flats).copy_(shard.cut(stored[name]))
        if self._scales and "grad_scales" in state.tensors:  # a run in another precision has none
            self._scales.restore(state.tensors["grad_scales"])
        self._compute_with(self._masters)
        self.step = int(state.numbers["step"])
        self._n_applied = int(state.numbers["optimizer_updates"])
        if self._ema:
            self._ema.n_updates = int(state.numbers["ema_updates"])

    def _gathered(self, flats: Flats) -> Gathered:
        return Gathered(self._shapes, lambda name: self._gather(name, flats))

    def _gather(self, name: str, flats: Flats) -> Tensor:
        """Put a parameter, or what is laid out like it, together from all processes' parts, on the device."""
        shard, shape = self._shards[name], self._shapes[name]
        whole = torch.zeros(shape.numel(), device=self.device)
        shard.cut(whole).copy_(shard.of(flats))
        self.world.sum(whole)
        return whole.view(shape)

    @torch.no_grad()
    def _compute_with(self, flats: Flats) -> None:
        """Let forward and backward see these weights."""
        self.module.empty_partition_cache()  # at stage 3, what is still gathered would be computed with
        for name, weight in self._gathered(flats).items():
            parameter, shard = self._parameters[name], self._shards[name]
            if self._stage == 3:
                parameter.ds_tensor[: shard.length].copy_(shard.cut(weight))
            else:
                parameter.data.copy_(weight)


def _without_parameters(module: nn.Module) -> nn.Module:
    """Copy a module but for its parameters, which take no memory."""
    hollow = {id(p): Parameter(torch.empty_like(p, device="meta"), requires_grad=False) for p in module.parameters()}
    return copy.deepcopy(module, hollow)


def _initialise(
    module: nn.Module, optimizer: torch.optim.Optimizer, config: dict[str, Any], world: World
) -> deepspeed.DeepSpeedEngine:
    """Let DeepSpeed deal everything out, in silence; raises DalleError for what it can't be tuned to."""
    os.environ["LOCAL_RANK"] = str(world.device.index or 0)  # what it takes for the device's number
    logger.setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # is for inference; all would compile it
    # it calls what newer torches spell otherwise, once for every tensor that it gathers
    warnings.filterwarnings("ignore", "`torch.distributed.*is deprecated", FutureWarning)
    if not torch.distributed.is_initialized():  # one process alone, with what is offloaded
        backend = "nccl" if world.device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        with redirect_stdout(io.StringIO()):
            deepspeed.init_distributed()
            if config["zero_optimization"]["stage"] == 3:
                deepspeed.zero.Init(module=module, config_dict_or_path=config)
            engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
    except (ValueError, AssertionError) as error:
        raise DalleError(f"DeepSpeed refuses its configuration: {error}") from error
    return engine


def _flat_partitions(zero: deepspeed.runtime.base_optimizer.ZeROOptimizer, stage: int) -> Flats:
    flats = zero.fp32_partitioned_groups_flat if stage == 3 else zero.single_partition_of_fp32_groups
    return {str(number): flat for number, flat in enumerate(flats)}


def _shard(zero: deepspeed.runtime.base_optimizer.ZeROOptimizer, parameter: Parameter, world: World) -> Shard:
    """Find this process's part of a parameter; at stage 3 each process has an even part, the last a shorter one."""
    if hasattr(parameter, "ds_tensor"):
        group, offset, length = zero.grad_position[zero.get_param_id(parameter)]
        start = min(world.ranks.rank * length, parameter.ds_numel)
        return Shard(str(group), offset, start, min(length, parameter.ds_numel - start))
    fragment = parameter._hp_mapping
    if fragment is None:
        return Shard("0", 0, 0, 0)
    held, place = fragment.hp_fragment_address, fragment.lp_fragment_address
    return Shard(str(fragment.param_group_index), held.start, place.start, held.numel)
