"""Groups of processes: parameters are sharded inside a group, and gradients summed between groups.

A group stands for a machine (Ramesh et al. 2021, section 2.5 and appendix E). Inside, torch's FSDP2
shards parameters, gathers a layer for the time that it computes, and leaves each process the sum of
its shard's gradient. Everything else happens on the shards, after the last backward: processes of
the same place in their groups sum their shards' gradients, compressed by PowerSGD where that is
asked for; then come clipping, the update and the average. Knows nothing of how a model computes in
16 bits, nor how a checkpoint is written.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic

import torch
from torch import Tensor, nn
from torch.distributed import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.nn import Parameter

from dalle_cli.config import EmaTable, OptimizerTable
from dalle_cli.runtime.distributed import World
from dalle_cli.runtime.processes.ranks import Ranks
from dalle_cli.storage.lazy_tensors import Gathered, check_shapes
from dalle_cli.training.engines.coded_sums import sum_numbers
from dalle_cli.training.engines.engine import EngineState, ModelT
from dalle_cli.training.engines.hollow_model import HollowModel
from dalle_cli.training.engines.powersgd import ERRORS, PowerSGD
from dalle_cli.training.engines.shard_places import ShardPlace, place_of
from dalle_cli.training.engines.update_state import UpdateState
from dalle_cli.training.metric_log import Metrics
from dalle_cli.training.optimization.adamw import build_optimizer
from dalle_cli.training.optimization.gradient_scaling import GradientScales

Shards = Mapping[str, Tensor]  # of parameters, or of tensors sharded like them, by name


class FsdpEngine(Generic[ModelT]):
    """A model sharded over each group of processes; the gradients of all groups are summed."""

    def __init__(
        self,
        module: ModelT,
        optimizer: OptimizerTable,
        *,
        ema: EmaTable | None,
        world: World,
        group_size: int,
        rank: int = 0,
        seed: int = 0,
        in_16_bits: bool = False,
        scales: GradientScales | None = None,
    ) -> None:
        """Shard the module over groups of consecutive processes of the world.

        rank        of a shard's compression between groups, sampled by the seed; 0: not compressed
        in_16_bits  whether the compression keeps and sends 16 bits
        scales      of the module's fp16 branches
        """
        self.world = world
        self.device = world.device
        mesh = init_device_mesh(
            world.device.type,
            (world.size // group_size, group_size),
            mesh_dim_names=("between", "inside"),
        )
        self._inside = _world_of(mesh["inside"], world)
        self._between = _world_of(mesh["between"], world)

        self._hollow = HollowModel(module, world)
        self._shapes = {name: p.shape for name, p in module.named_parameters()}
        matrices = {id(matrix) for matrix in module.matrices()}
        matrix_names = [name for name, p in module.named_parameters() if id(p) in matrices]
        self._places = {
            name: place_of(shape, self._inside.ranks, is_matrix=name in matrix_names)
            for name, shape in self._shapes.items()
        }
        self.module = _shard(module, self._places, mesh["inside"])
        self._sharded: dict[str, Any] = dict(module.named_parameters())  # DTensors by now
        self._shards = {
            name: Parameter(p.to_local().detach()) for name, p in self._sharded.items()
        }  # the same memory

        self._compression = None
        if rank and self._between.size > 1:
            shapes = {name: self._shards[name].shape for name in matrix_names}
            self._compression = PowerSGD(
                {name: (shape[0], shape[1]) for name, shape in shapes.items()},
                rank,
                seed=seed,
                n_ranks=self._between.size,
                device=self.device,
                in_16_bits=in_16_bits,
            )
        adamw = build_optimizer(
            [self._shards[name] for name in matrix_names], self._shards.values(), optimizer
        )
        self._updates = UpdateState(
            adamw, self._shards, table=optimizer, ema=ema, scales=scales, world=world
        )
        self._clip_norm = optimizer.clip_norm or math.inf
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
        for name, shard in self._shards.items():
            gradient = self._sharded[name].grad
            shard.grad = None if gradient is None else gradient.to_local()
        self._sum_between_groups()
        norm = self._norm()
        torch.nn.utils.clip_grads_with_norm_(self._shards.values(), self._clip_norm, norm)
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
        for name, shard in self._shards.items():
            shard.grad = self._sharded[name].grad = None
        self._updates.finish(is_applied=is_applied)

    def _sum_between_groups(self) -> None:
        gradients = {name: s.grad for name, s in self._shards.items() if s.grad is not None}
        if self._compression:
            matrices = {name: gradients.pop(name) for name in self._compression.names}
            self._compression.reduce(matrices, partial(sum_numbers, world=self._between))
        self._between.all_reduce_gradients(gradients.values())

    def _norm(self) -> Tensor:
        """Compute the norm of all gradients, to the same bits in every process."""
        gradients = [shard.grad for shard in self._shards.values() if shard.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients))  # [shards]
        squares = self._inside.all_gather_tensors(norms.square().sum())
        return torch.stack(squares).sum().sqrt()

    def metrics(self) -> Metrics:
        return self._updates.metrics(self._gradient_norm)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        if self._updates.ema is None:
            yield
            return
        trained = {name: shard.detach().clone() for name, shard in self._shards.items()}
        self._compute_with(self._updates.ema.weights)
        try:
            yield
        finally:
            self._compute_with(trained)

    @contextmanager
    def whole_model(self) -> Iterator[ModelT | None]:
        yield self._hollow.filled(self.inference_weights())

    def inference_weights(self) -> Gathered:
        return self._gathered(self._updates.inference_weights())

    def state(self) -> EngineState:
        """Return everything a run needs to resume; each group gathers the tensors one by one."""
        tensors: dict[str, Mapping[str, Tensor]] = {
            group: self._gathered(shards) for group, shards in self._updates.weight_groups().items()
        }
        if self._compression:
            tensors[ERRORS] = self._gathered(self._compression.state(self._between.all_reduce))
        return EngineState(tensors | self._updates.scale_group(), self._updates.numbers())

    @torch.no_grad()
    def restore(self, state: EngineState) -> None:
        for group, shards in self._updates.weight_groups().items():
            stored = state.tensors.get(group, {})
            check_shapes(self._shapes, stored, group)
            for name, shard in shards.items():
                shard.copy_(self._places[name].of(stored[name]))
        if self._compression and ERRORS in state.tensors:  # absent where nothing was compressed
            errors = state.tensors[ERRORS].items()
            self._compression.restore(
                {name: self._places[name].of(error).contiguous() for name, error in errors}
            )
        self._updates.restore(state)

    def _gathered(self, shards: Shards) -> Gathered:
        return Gathered(
            {name: self._shapes[name] for name in shards},
            lambda name: self._gather(name, shards[name]),
            {name: shard.dtype for name, shard in shards.items()},
        )

    @torch.no_grad()
    def _gather(self, name: str, shard: Tensor) -> Tensor:
        """Gather a tensor from the processes of the group, on the device.

        The codes of moments in 16 bits are summed as fp32, which holds them exactly.
        """
        whole = torch.zeros(self._shapes[name], device=self.device)
        self._places[name].of(whole).copy_(shard)
        self._inside.all_reduce(whole)
        return whole.to(shard.dtype)

    @torch.no_grad()
    def _compute_with(self, shards: Shards) -> None:
        for name, shard in self._shards.items():
            shard.copy_(shards[name])


def _world_of(mesh: DeviceMesh, world: World) -> World:
    """Return the processes along one dimension of a mesh, as seen by this one."""
    ranks = Ranks(mesh.get_local_rank(), mesh.size(), world.ranks.local_rank)
    return World(ranks, world.device, mesh.get_group(), watchdog=world.watchdog)


def _shard(module: ModelT, places: Mapping[str, ShardPlace], mesh: DeviceMesh) -> ModelT:
    """Shard a module in place: each layer of its lists of layers, then all else together.

    Gradients are summed over the group, since the shares of a loss are to be summed, and not
    averaged.
    """
    assert isinstance(module, nn.Module)
    hooks = {
        name: list((p._backward_hooks or {}).values()) for name, p in module.named_parameters()
    }
    for buffer in module.buffers():
        buffer.data = buffer.data.to(mesh.device_type)

    lists = [child for child in module.children() if isinstance(child, nn.ModuleList)]
    parts: list[Any] = [*(layer for child in lists for layer in child), module]
    for part in parts:
        dims = {id(p): places[name].dim for name, p in module.named_parameters()}
        fully_shard(
            part,
            mesh=mesh,
            reshard_after_forward=True,
            shard_placement_fn=lambda p, dims=dims: Shard(dims[id(p)]),
        )
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)

    # a layer computes with parameters of its own, which are made when it is first gathered
    for part in parts:
        part.unshard()
        for name, parameter in module.named_parameters():
            if not isinstance(parameter, DTensor):
                for hook in hooks[name]:
                    parameter.register_hook(hook)
        part.reshard()
    return module
