"""The processes that train or generate together, and their collective operations.

Every rank calls the collectives of a `World` in the same order. In a world of one process they are
no-ops, so that callers need not ask for its size.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.distributed import ProcessGroup

from dalle_cli.errors import UsageError
from dalle_cli.runtime.processes.late_ranks import Watchdog
from dalle_cli.runtime.processes.ranks import Ranks

BUCKET_VALUES = 2**25  # gradient values in one all-reduce


@dataclass(frozen=True)
class World:
    """The group of processes that run together, as seen by one of them.

    group       some of them, in torch's terms; None: all
    host_group  the same ones for what the host reads, where `group` sums on GPUs alone: through
                gloo, such messages don't wait for the GPU and notice at once who has died
    watchdog    names processes that are late; all worlds of a process share it
    """

    ranks: Ranks
    device: torch.device
    group: ProcessGroup | None = None
    host_group: ProcessGroup | None = None
    watchdog: Watchdog = field(default_factory=Watchdog, compare=False)

    @property
    def rank(self) -> int:
        """Rank of this process."""
        return self.ranks.rank

    @property
    def size(self) -> int:
        """Number of processes."""
        return self.ranks.size

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which prints and writes for all."""
        return self.ranks.is_main

    def reach(self, point: str) -> None:
        """Note that this process has come to a point of its work, which all ranks come to in turn.

        Where others wait for one that is late, a message names the point.
        """
        self.watchdog.reach(point)

    def machine_size(self) -> int:
        """Return the number of processes on each machine.

        Every rank takes part. Raises UsageError where machines have different numbers of them.
        """
        local_ranks = self.all_gather([self.ranks.local_rank])
        size = max(local_ranks) + 1
        if self.size % size or local_ranks != [rank % size for rank in range(self.size)]:
            raise UsageError(f"machines have different numbers of processes: {size} at most")
        return size

    def share(self, n: int) -> range:
        """Return this rank's part of range(n); n is divisible by the number of processes."""
        n_each = n // self.size
        return range(self.rank * n_each, (self.rank + 1) * n_each)

    def share_of_batches(self, n: int, batch_size: int) -> range:
        """Return this rank's part of range(n): whole batches, of which the last may be smaller.

        The parts of all ranks follow one another, and their batches are those of one process. No
        rank gets more than rank 0.
        """
        n_batches = math.ceil(n / batch_size)
        start, end = (math.ceil(n_batches * r / self.size) for r in (self.rank, self.rank + 1))
        return range(n)[start * batch_size : end * batch_size]

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum a tensor over all ranks, in place; every rank gets the same bits."""
        if self.size > 1:
            self.watchdog.reach()
            torch.distributed.all_reduce(tensor, group=self.group)

    def all_reduce_numbers(
        self, numbers: Mapping[str, float | Tensor]
    ) -> dict[str, float | Tensor]:
        """Sum named numbers over all ranks; returns fp64 scalars on the device."""
        if self.size == 1:
            return dict(numbers)
        values = [
            torch.as_tensor(value, dtype=torch.float64, device=self.device)
            for value in numbers.values()
        ]
        stacked = torch.stack(values)  # [numbers]
        self.all_reduce(stacked)
        return dict(zip(numbers, stacked.unbind(), strict=True))

    def all_reduce_count(self, count: int) -> int:
        """Sum a count over all ranks, on the host."""
        if self.size == 1:
            return count
        self.watchdog.reach()
        total = torch.tensor([count])
        torch.distributed.all_reduce(total, group=self._host_group)
        return int(total)

    @property
    def _host_group(self) -> ProcessGroup | None:
        return self.host_group or self.group

    def all_reduce_gradients(self, gradients: Iterable[Tensor]) -> None:
        """Sum gradients over all ranks, in place, with many of them in each message."""
        if self.size == 1:
            return
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])  # [values]
            self.all_reduce(flat)
            summed = flat.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, summed, strict=True):
                gradient.copy_(part.view_as(gradient))

    def all_gather_tensors(self, tensor: Tensor) -> list[Tensor]:
        """Gather a tensor of one shape from all ranks, in rank order and without gradients."""
        if self.size == 1:
            return [tensor.detach()]
        self.watchdog.reach()
        gathered = [torch.empty_like(tensor) for _ in range(self.size)]
        torch.distributed.all_gather(gathered, tensor.detach().contiguous(), group=self.group)
        return gathered

    def exchange(self, rows: Tensor) -> Tensor:
        """Send each rank a row of a tensor [ranks, ...]; return the rows that all sent to this."""
        if self.size == 1:
            return rows
        self.watchdog.reach()
        received = torch.empty_like(rows)
        torch.distributed.all_to_all_single(received, rows, group=self.group)
        return received

    def all_gather(self, items: list[Any]) -> list[Any]:
        """Gather lists of picklable objects from all ranks and concatenate them in rank order.

        Costs a single small message if all lists are empty.
        """
        if self.size == 1:
            return items
        if not self.all_reduce_count(len(items)):
            return []

        gathered: list[list[Any]] = [[] for _ in range(self.size)]
        torch.distributed.all_gather_object(gathered, items, group=self._host_group)
        return [item for part in gathered for item in part]

    def gather(self, items: list[Any]) -> list[Any]:
        """Gather lists of picklable objects at rank 0, in rank order; other ranks get nothing."""
        if self.size == 1:
            return items
        self.watchdog.reach()
        gathered: list[list[Any]] | None = [[]] * self.size if self.is_main else None
        torch.distributed.gather_object(items, gathered, group=self._host_group, group_dst=0)
        return [item for part in gathered or [] for item in part]

    def broadcast(self, item: Any) -> Any:
        """Broadcast a picklable object from rank 0; the argument of other ranks is ignored."""
        return self.all_gather([item] if self.is_main else [])[0]

    def barrier(self) -> None:
        """Wait until every rank has reached this call, whatever its GPU still has to do."""
        self.all_reduce_count(0)

    @contextmanager
    def main_first(self) -> Iterator[bool]:
        """Yield whether this is rank 0, which does the work of the `with` while the others wait."""
        yield self.is_main
        self.barrier()


def _buckets(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and sum(g.numel() for g in bucket) + gradient.numel() > BUCKET_VALUES:
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def single_process(device: torch.device) -> World:
    """Return the world of a process that runs alone."""
    return World(Ranks(), device)
