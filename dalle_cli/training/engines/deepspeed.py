"""DeepSpeed's ZeRO behind the verbs of an engine: parameters, gradients and moments dealt out over processes.

Rajbhandari et al. 2020. DeepSpeed deals out, gathers, sums and clips; the update, the average and the checkpoints are
ours, by the `Shard`s of `zero_layout`: where in DeepSpeed's flat fp32 partitions a process's part of a parameter lies.
Neither its own checkpoints nor its 16-bit modes are used. The only module that imports DeepSpeed; what both know of its
insides is checked whenever an engine is made, and by the tests of several processes.
"""

import copy
import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

import deepspeed
import torch
import torch.distributed
from deepspeed.utils import logger
from torch import Tensor, nn
from torch.nn import Parameter

from dalle_cli.config import EmaTable, OptimizerTable
from dalle_cli.errors import DalleError
from dalle_cli.runtime.distributed import World
from dalle_cli.storage.lazy_tensors import Gathered, check_shapes
from dalle_cli.training.engines.engine import EngineState, Trainable
from dalle_cli.training.engines.zero_layout import Flats, flat_partitions, shard_of, working_copy
from dalle_cli.training.metric_log import Metrics
from dalle_cli.training.optimization.adamw import build_optimizer
from dalle_cli.training.optimization.ema import Ema
from dalle_cli.training.optimization.gradient_scaling import BranchScales
from dalle_cli.training.optimization.learning_rate import LearningRate


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
        self._optimizer = build_optimizer(module.matrices(), self._parameters.values(), optimizer)
        self._step_size = LearningRate(optimizer)
        self._n_applied = 0
        self._scales = scales
        if world.size > 1:
            for parameter in self._parameters.values():
                parameter.register_hook(self._undo_the_mean)
        self._stage: int = config["zero_optimization"]["stage"]
        self.module = _initialise(module, self._optimizer, config, world)
        self._masters = flat_partitions(self.module.optimizer, self._stage)
        self._shards = {
            name: shard_of(self.module.optimizer, self._stage, p, world)
            for name, p in self._parameters.items()
        }
        self._check_layout()
        self._ema = Ema(self._masters, ema) if ema else None

    def _undo_the_mean(self, gradient: Tensor) -> Tensor:
        """DeepSpeed takes the mean over processes; shares of a loss are to be summed."""
        return gradient * self.world.size

    def _check_layout(self) -> None:
        for name, shard in self._shards.items():
            master, used = (
                shard.of(self._masters),
                working_copy(self._parameters[name], shard, self._stage),
            )
            if not used.to(master.device).equal(master):
                raise RuntimeError(
                    f"DeepSpeed {deepspeed.__version__} lays {name} out in a way that is not known"
                )

    def backward(self, loss: Tensor) -> None:
        self.module.backward(loss)

    def observe(self, loss: float | Tensor) -> None:
        self._step_size.observe(self.step, loss)

    def update(self) -> bool:
        self._optimizer.prepare(self._n_applied + 1, self._step_size.at(self.step))
        self.module.step()  # skips by itself, on all processes, where the norm is not finite
        is_applied = self.module.was_step_applied()
        if is_applied:
            self._n_applied += 1
            if self._ema:
                self._ema.follow(self._n_applied)
        if self._scales:
            self.world.all_reduce(self._scales.overflowed)
            self._scales.update()
        self.step += 1
        return is_applied

    def metrics(self) -> Metrics:
        norm, lr = float(self.module.get_global_grad_norm()), self._step_size.at(self.step - 1)
        return {
            "train/gradient_norm": norm,
            "train/lr": lr,
            **(self._scales.metrics() if self._scales else {}),
        }

    @contextmanager
    def averaged(self) -> Iterator[None]:
        if self._ema is None:
            yield
            return
        self._compute_with(self._ema.weights)
        yield  # a process that fails in here must not wait for the others
        self._compute_with(self._masters)

    @contextmanager
    def whole_model(self) -> Iterator[nn.Module | None]:
        """Give it where there is room beside what training holds; None in all processes where there is not."""
        yield self._whole() if self._has_room_for_all() else None

    def _has_room_for_all(self) -> bool:
        if self.device.type != "cuda":
            return True
        needed = torch.float32.itemsize * sum(shape.numel() for shape in self._shapes.values())
        return self.world.all_gather([torch.cuda.mem_get_info(self.device)[0] > 1.1 * needed])[0]

    def _whole(self) -> nn.Module | None:
        """Put the whole model together in the main process."""
        gathered = self.inference_weights().items()
        weights = {name: tensor.cpu() for name, tensor in gathered if self.world.is_main}
        if not self.world.is_main:
            return None
        whole = copy.deepcopy(self._hollow)
        whole.load_state_dict(weights, assign=True)
        return whole.to(self.device)

    def inference_weights(self) -> Gathered:
        return self._gathered(self._ema.weights if self._ema else self._masters)

    def state(self) -> EngineState:
        """Give what a run needs to go on; tensors are gathered one by one, by all processes."""
        tensors: dict[str, Mapping[str, Tensor]] = {
            g: self._gathered(flats) for g, flats in self._groups().items()
        }
        numbers = {
            "step": self.step,
            "optimizer_updates": self._n_applied,
            **self._step_size.numbers(),
        }
        if self._scales:
            tensors["grad_scales"] = self._scales.state()
        if self._ema:
            numbers["ema_updates"] = self._ema.n_updates
        return EngineState(tensors, numbers)

    def _groups(self) -> dict[str, Flats]:
        """Name what is laid out like the flat partitions, with themselves, by group."""
        groups: dict[str, Flats] = {"parameters": self._masters}
        for moment in ("exp_avg", "exp_avg_sq"):
            groups[moment] = {
                name: self._optimizer.moments(flat)[moment] for name, flat in self._masters.items()
            }
        return groups | ({"ema": self._ema.weights} if self._ema else {})

    @torch.no_grad()
    def restore(self, state: EngineState) -> None:
        """Take over a state of the same model; raises ValueError that names tensors which do not fit."""
        for group, flats in self._groups().items():
            stored = state.tensors.get(group, {})
            check_shapes(self._shapes, stored, group)
            for name, shard in self._shards.items():
                if shard.length:
                    shard.of(flats).copy_(shard.cut(stored[name]))
        if self._scales and "grad_scales" in state.tensors:  # a run in another precision has none
            self._scales.restore(state.tensors["grad_scales"])
        self._compute_with(self._masters)
        self.step = int(state.numbers["step"])
        self._n_applied = int(state.numbers["optimizer_updates"])
        self._step_size.restore(state.numbers)
        if self._ema:
            self._ema.n_updates = int(state.numbers["ema_updates"])

    def _gathered(self, flats: Flats) -> Gathered:
        return Gathered(self._shapes, lambda name: self._gather(name, flats))

    @torch.no_grad()
    def _gather(self, name: str, flats: Flats) -> Tensor:
        """Put a parameter, or what is laid out like it, together from all processes' parts, on the device."""
        shard, shape = self._shards[name], self._shapes[name]
        whole = torch.zeros(shape.numel(), device=self.device)
        shard.cut(whole).copy_(shard.of(flats))
        self.world.all_reduce(whole)
        return whole.view(shape)

    @torch.no_grad()
    def _compute_with(self, flats: Flats) -> None:
        """Let forward and backward see these weights."""
        self.module.empty_partition_cache()  # at stage 3, what is still gathered would be computed with
        for name, shard in self._shards.items():
            parameter = self._parameters[name]
            if self._stage == 3:
                working_copy(parameter, shard, self._stage).copy_(shard.of(flats))
            else:
                parameter.data.copy_(self._gather(name, flats))


def _without_parameters(module: nn.Module) -> nn.Module:
    """Copy a module but for its parameters, which take no memory."""
    hollow = {
        id(p): Parameter(torch.empty_like(p, device="meta"), requires_grad=False)
        for p in module.parameters()
    }
    return copy.deepcopy(module, hollow)


def _initialise(
    module: nn.Module, optimizer: torch.optim.Optimizer, config: dict[str, Any], world: World
) -> deepspeed.DeepSpeedEngine:
    """Let DeepSpeed deal everything out, in silence; raises DalleError for what it can't be tuned to."""
    os.environ["LOCAL_RANK"] = str(world.device.index or 0)  # what it takes for the device's number
    logger.setLevel(logging.INFO if config.get("wall_clock_breakdown") else logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = (
        False  # is for inference; all would compile it
    )
    # it calls what newer torches spell otherwise, once for every tensor that it gathers
    warnings.filterwarnings("ignore", "`torch.distributed.*is deprecated", FutureWarning)
    if not torch.distributed.is_initialized():  # one process alone, with what is offloaded
        backend = "nccl" if world.device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(
            backend, store=torch.distributed.HashStore(), rank=0, world_size=1
        )
    try:
        with redirect_stdout(io.StringIO()):
            deepspeed.init_distributed()
            if config["zero_optimization"]["stage"] == 3:
                for buffer in module.buffers():  # `Init` moves parameters alone
                    buffer.data = buffer.data.to(world.device)
                deepspeed.zero.Init(module=module, config_dict_or_path=config)
            engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
    except (ValueError, AssertionError) as error:
        raise DalleError(f"DeepSpeed refuses its configuration: {error}") from error
    return engine
