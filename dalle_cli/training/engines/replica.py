"""The engine of replicas: the whole model in each process, one or many.

Each process does its share of the batch, gradients are summed over the processes, compressed where
PowerSGD is asked for (Ramesh et al. 2021, appendix E), and all processes then apply the same
update. Knows nothing of how a model computes in 16 bits, nor how a checkpoint is written.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Generic

import torch
from torch import Tensor

from dalle_cli.config import EmaTable, OptimizerTable
from dalle_cli.runtime.distributed import World
from dalle_cli.storage.lazy_tensors import copy_tensors
from dalle_cli.training.engines.coded_sums import sum_numbers
from dalle_cli.training.engines.engine import EngineState, ModelT
from dalle_cli.training.engines.powersgd import ERRORS, PowerSGD
from dalle_cli.training.engines.update_state import UpdateState
from dalle_cli.training.metric_log import Metrics
from dalle_cli.training.optimization.adamw import build_optimizer
from dalle_cli.training.optimization.gradient_scaling import GradientScales


class ReplicaEngine(Generic[ModelT]):
    """A whole model in each process; the gradients of all processes are summed.

    All processes take the same update, from gradients that are the same to the last bit.
    """

    def __init__(
        self,
        module: ModelT,
        optimizer: OptimizerTable,
        *,
        ema: EmaTable | None,
        world: World,
        scales: GradientScales | None = None,
        compression: PowerSGD | None = None,
    ) -> None:
        """Move the module to the world's device and build its optimizer.

        scales       of a model that trains in fp16
        compression  of the matrices' gradients, between processes
        """
        self.world = world
        self.device = world.device
        self.module = module.to(world.device)
        self._parameters = dict(module.named_parameters())

        self._updates = UpdateState(
            build_optimizer(module.matrices(), self._parameters.values(), optimizer),
            self._parameters,
            table=optimizer,
            ema=ema,
            scales=scales,
            world=world,
        )
        self._clip_norm = optimizer.clip_norm or math.inf
        self._compression = compression
        self._gradient_norm = 0.0

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
        (scales.scaled(loss) if scales else loss).backward()

    def observe(self, loss: float | Tensor) -> None:
        self._updates.observe(loss)

    def update(self) -> bool:
        self._sum_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._clip_norm)
        self._gradient_norm = float(norm)

        is_finite = math.isfinite(self._gradient_norm)
        if is_finite:
            self._updates.prepare()
            self._updates.optimizer.step()
        if self._compression:
            self._compression.settle(is_applied=is_finite)

        self._finish(is_applied=is_finite)
        return is_finite

    def discard(self) -> None:
        self._gradient_norm = math.nan  # it was not computed
        self._finish(is_applied=False)

    def _finish(self, *, is_applied: bool) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None
        self._updates.finish(is_applied=is_applied)

    def _sum_gradients(self) -> None:
        gradients = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        if self._compression:
            matrices = {name: gradients.pop(name) for name in self._compression.names}
            self._compression.reduce(matrices, partial(sum_numbers, world=self.world))
        self.world.all_reduce_gradients(gradients.values())

    def metrics(self) -> Metrics:
        return self._updates.metrics(self._gradient_norm)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        if self._updates.ema is None:
            yield
        else:
            with self._updates.ema.swapped_in():
                yield

    @contextmanager
    def whole_model(self) -> Iterator[ModelT | None]:
        with self.averaged():
            yield self.module if self.world.is_main else None

    def inference_weights(self) -> dict[str, Tensor]:
        return self._updates.inference_weights()

    def state(self) -> EngineState:
        tensors = self._updates.weight_groups() | self._updates.scale_group()
        if self._compression:
            tensors[ERRORS] = self._compression.state(self.world.all_reduce)
        return EngineState(tensors, self._updates.numbers())

    @torch.no_grad()
    def restore(self, state: EngineState) -> None:
        for group, tensors in self._updates.weight_groups().items():
            copy_tensors(tensors, state.tensors.get(group, {}), group)
        if self._compression and ERRORS in state.tensors:  # absent where one process trained
            self._compression.restore(state.tensors[ERRORS])
        self._updates.restore(state)
