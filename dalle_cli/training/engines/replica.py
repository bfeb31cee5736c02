"""training.engines.replica: to be described."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from dalle_cli.config import EmaTable, OptimizerTable
from dalle_cli.runtime.distributed import World
from dalle_cli.storage.lazy_tensors import copy_tensors
from dalle_cli.training.engines.engine import EngineState, Trainable
from dalle_cli.training.engines.powersgd import PowerSGD
from dalle_cli.training.metric_log import Metrics
from dalle_cli.training.optimization.adamw import build_optimizer
from dalle_cli.training.optimization.ema import Ema
from dalle_cli.training.optimization.gradient_scaling import BranchScales
from dalle_cli.training.optimization.learning_rate import LearningRate
from dalle_cli.training.optimization.loss_scaling import LossScale


class ReplicaEngine:
    """The whole model in each process, one or many; each does its share of the batch, and gradients are summed.

    All processes then take the same update: from the same gradients, to the last bit.
    """

    def __init__(
        self,
        module: Trainable,
        optimizer: OptimizerTable,
        ema: EmaTable | None,
        world: World,
        scales: BranchScales | LossScale | None = None,
        compression: PowerSGD | None = None,
    ) -> None:
        """scales: of what trains in fp16; compression: of the matrices' gradients, between processes."""
        self.step = 0
        self.world = world
        self.device = world.device
        self.module = module.to(world.device)
        self._parameters = dict(module.named_parameters())
        self._table = optimizer
        self._optimizer = build_optimizer(module.matrices(), self._parameters.values(), optimizer)
        self._step_size = LearningRate(optimizer)
        self._n_applied = 0
        self._ema = Ema(self._parameters, ema) if ema else None
        self._scales = scales
        self._compression = compression
        self._gradient_norm = 0.0

    def backward(self, loss: Tensor) -> None:
        (self._scales.scaled(loss) if self._scales else loss).backward()

    def observe(self, loss: float | Tensor) -> None:
        self._step_size.observe(self.step, loss)

    def update(self) -> bool:
        self._sum_gradients()
        bound = self._table.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), bound)
        self._gradient_norm = float(norm)
        is_finite = math.isfinite(self._gradient_norm)
        if is_finite:
            self._apply()
        if self._compression:
            self._compression.settle(is_finite)
        if self._scales:
            self.world.all_reduce(self._scales.overflowed)
            self._scales.update()
        for parameter in self._parameters.values():
            parameter.grad = None
        self.step += 1
        return is_finite

    def _sum_gradients(self) -> None:
        gradients = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        if self._compression:
            matrices = {name: gradients.pop(name) for name in self._compression.names}
            self._compression.reduce(matrices, self.world.all_reduce)
        self.world.all_reduce_gradients(gradients.values())

    def _apply(self) -> None:
        self._n_applied += 1
        self._optimizer.prepare(self._n_applied, self._step_size.at(self.step))
        self._optimizer.step()
        if self._ema:
            self._ema.follow(self._n_applied)

    def metrics(self) -> Metrics:
        figures = {
            "train/gradient_norm": self._gradient_norm,
            "train/lr": self._step_size.at(self.step - 1),
        }
        return {**figures, **(self._scales.metrics() if self._scales else {})}

    @contextmanager
    def averaged(self) -> Iterator[None]:
        if self._ema is None:
            yield
        else:
            with self._ema.swapped_in():
                yield

    @contextmanager
    def whole_model(self) -> Iterator[Trainable | None]:
        with self.averaged():
            yield self.module if self.world.is_main else None

    def inference_weights(self) -> dict[str, Tensor]:
        return (
            self._ema.weights
            if self._ema
            else {name: p.data for name, p in self._parameters.items()}
        )

    def state(self) -> EngineState:
        """Give what a run needs to go on; every process takes part, and all get the same."""
        tensors = self._tensors()
        numbers = {
            "step": self.step,
            "optimizer_updates": self._n_applied,
            **self._step_size.numbers(),
        }
        if self._compression:
            tensors["compression_errors"] = self._compression.state(self.world.all_reduce)
        if self._ema:
            numbers["ema_updates"] = self._ema.n_updates
        return EngineState(tensors, numbers)

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        """Name the tensors that are the same in all processes, by group."""
        tensors = {"parameters": {name: p.data for name, p in self._parameters.items()}}
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors[moment] = {
                name: self._optimizer.moments(p)[moment] for name, p in self._parameters.items()
            }
        if self._ema:
            tensors["ema"] = self._ema.weights
        if self._scales:
            tensors["grad_scales"] = self._scales.state()
        return tensors

    @torch.no_grad()
    def restore(self, state: EngineState) -> None:
        """Take over a state of the same model; raises ValueError that names tensors which do not fit."""
        for group, tensors in self._tensors().items():
            if (
                group != "grad_scales" or group in state.tensors
            ):  # a run in another precision has none
                copy_tensors(tensors, state.tensors.get(group, {}), group)
        if (
            self._compression and "compression_errors" in state.tensors
        ):  # a run in one process has none
            self._compression.restore(state.tensors["compression_errors"])
        self.step = int(state.numbers["step"])
        self._n_applied = int(state.numbers["optimizer_updates"])
        self._step_size.restore(state.numbers)
        if self._ema:
            self._ema.n_updates = int(state.numbers["ema_updates"])
