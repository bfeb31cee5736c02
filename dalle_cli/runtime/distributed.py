"""The processes that train one model together, and what they have to agree on.

A `World` of one process does nothing, so that nobody needs to ask how many there are. All its methods are collective:
every process calls them in the same order.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from dalle_cli.errors import DalleError, UsageError
from dalle_cli.runtime.ranks import LOST_ANOTHER, Ranks, ranks_of_environment

PATIENCE = timedelta(
    hours=1
)  # the others wait while one learns a vocabulary or saves; a dead one is noticed at once
BUCKET = 2**25  # values summed at once


@dataclass(frozen=True)
class World:
    """The processes of a run, as one of them sees them."""

    ranks: Ranks
    device: torch.device

    @property
    def size(self) -> int:
        """Count the processes."""
        return self.ranks.size

    @property
    def is_main(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.ranks.is_main

    def share(self, n: int) -> range:
        """Say which of n things, n divisible by the number of processes, are this process's."""
        own = n // self.size
        return range(self.ranks.rank * own, (self.ranks.rank + 1) * own)

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum a tensor over all processes, in place, to the same bits everywhere."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)

    def all_reduce_numbers(
        self, numbers: Mapping[str, float | Tensor]
    ) -> dict[str, float | Tensor]:
        """Sum numbers by name over all processes; they come back as fp64 scalars on the device."""
        if self.size == 1:
            return dict(numbers)
        values = [
            torch.as_tensor(value, dtype=torch.float64, device=self.device)
            for value in numbers.values()
        ]
        stacked = torch.stack(values)
        self.all_reduce(stacked)
        return dict(zip(numbers, stacked.unbind(), strict=True))

    def all_reduce_gradients(self, gradients: Iterable[Tensor]) -> None:
        """Sum gradients over all processes in place, many in one message."""
        if self.size == 1:
            return
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            self.all_reduce(flat)
            for gradient, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def all_gather_tensors(self, tensor: Tensor) -> list[Tensor]:
        """Collect tensors of one shape from all processes, without their gradients."""
        if self.size == 1:
            return [tensor.detach()]
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        torch.distributed.all_gather(found, tensor.detach().contiguous())
        return found

    def all_gather(self, items: list[Any]) -> list[Any]:
        """Join the lists of all processes, in the order of their ranks; costs little where all are empty."""
        if self.size == 1:
            return items
        count = torch.tensor([len(items)], device=self.device)
        self.all_reduce(count)
        if not int(count):
            return []
        found: list[list[Any]] = [[] for _ in range(self.size)]
        torch.distributed.all_gather_object(found, items)
        return [item for part in found for item in part]

    def broadcast(self, thing: Any) -> Any:
        """Give all processes what the main one has; what the others have does not matter."""
        return self.all_gather([thing] if self.is_main else [])[0]

    def barrier(self) -> None:
        """Go on only when all processes have come here."""
        if self.size > 1:
            arrived = torch.zeros(1, device=self.device)
            self.all_reduce(arrived)
            arrived.item()  # NCCL sums in the background: who reads the result waits

    @contextmanager
    def main_first(self) -> Iterator[bool]:
        """Let the main process do something, as told inside the `with`, while the others wait for its end."""
        yield self.is_main
        self.barrier()


def _buckets(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and sum(g.numel() for g in bucket) + gradient.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def single_process(device: torch.device) -> World:
    """Make the world of a process that trains alone."""
    return World(Ranks(), device)


def _own_gpu(ranks: Ranks) -> torch.device:
    """Take the GPU of this process's number, or the only one that SLURM lets it see."""
    n_devices = torch.cuda.device_count()
    if n_devices == 1 and "SLURM_LOCALID" in os.environ:
        return torch.device("cuda", 0)
    if ranks.local_rank >= n_devices:
        raise UsageError(
            f"process {ranks.local_rank} of this machine has no GPU: there are {n_devices}"
        )
    return torch.device("cuda", ranks.local_rank)


@contextmanager
def init_process_group(device: torch.device) -> Iterator[World]:
    """Join the processes that were started together, through gloo on CPUs and NCCL on GPUs; leave them in the end.

    Raises DalleError where the others can't be reached, UsageError where the environment makes no sense.
    """
    ranks = ranks_of_environment()
    if ranks.size == 1:
        try:
            yield single_process(device)
        finally:
            if torch.distributed.is_initialized():  # by DeepSpeed's engine
                torch.distributed.destroy_process_group()
        return
    if device.type == "cuda":
        device = _own_gpu(ranks)
        torch.cuda.set_device(device)
    os.environ.setdefault("MASTER_ADDR", os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"))
    os.environ.setdefault("MASTER_PORT", "29500")
    try:
        torch.distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            rank=ranks.rank,
            world_size=ranks.size,
            timeout=PATIENCE,
        )
    except (RuntimeError, ValueError) as error:
        raise DalleError(
            f"process {ranks.rank} of {ranks.size} can't reach the others: {error}"
        ) from error
    try:
        yield World(ranks, device)
    except RuntimeError as error:
        if "gloo" not in str(error) and "NCCL" not in str(error):
            raise
        raise DalleError(
            f"process {ranks.rank} of {ranks.size} has lost another: {error}",
            exit_code=LOST_ANOTHER,
        ) from error
    finally:
        torch.distributed.destroy_process_group()
