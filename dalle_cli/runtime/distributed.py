"""The processes that train or generate together, and their collective operations.

Every rank calls the collectives of a `World` in the same order. In a world of one process they are
no-ops, so that callers need not ask for its size.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Timer
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.distributed import PrefixStore, Store, TCPStore

from dalle_cli.errors import DalleError, UsageError
from dalle_cli.runtime.devices import is_out_of_memory
from dalle_cli.runtime.processes.late_ranks import (
    Watchdog,
    absent_ranks,
    name_ranks,
    publish_host,
)
from dalle_cli.runtime.processes.ranks import (
    LOST_ANOTHER,
    Ranks,
    main_address,
    ranks_of_environment,
)
from dalle_cli.runtime.signals import stopped_at_once, write_line

# Ranks wait while one learns a vocabulary or saves. gloo notices at once that a process has died;
# where NCCL waits for it, whoever launched the processes must end the others. The watchdog, which
# knows who is late, ends them before torch does.
TIMEOUT = timedelta(hours=1)
UNTOLD_WAIT = 5.0  # seconds for the others to come, after which a process says that it waits
BUCKET_VALUES = 2**25  # gradient values in one all-reduce


@dataclass(frozen=True)
class World:
    """The group of processes that run together, as seen by one of them.

    group     some of them, in torch's terms; None: all
    watchdog  names processes that are late; all worlds of a process share it
    """

    ranks: Ranks
    device: torch.device
    group: torch.distributed.ProcessGroup | None = None
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
        count = torch.tensor([len(items)], device=self.device)
        self.all_reduce(count)
        if not int(count):
            return []

        gathered: list[list[Any]] = [[] for _ in range(self.size)]
        torch.distributed.all_gather_object(gathered, items, group=self.group)
        return [item for part in gathered for item in part]

    def gather(self, items: list[Any]) -> list[Any]:
        """Gather lists of picklable objects at rank 0, in rank order; other ranks get nothing."""
        if self.size == 1:
            return items
        self.watchdog.reach()
        gathered: list[list[Any]] | None = [[]] * self.size if self.is_main else None
        torch.distributed.gather_object(items, gathered, group=self.group, group_dst=0)
        return [item for part in gathered or [] for item in part]

    def broadcast(self, item: Any) -> Any:
        """Broadcast a picklable object from rank 0; the argument of other ranks is ignored."""
        return self.all_gather([item] if self.is_main else [])[0]

    def barrier(self) -> None:
        """Wait until every rank has reached this call."""
        if self.size > 1:
            arrived = torch.zeros(1, device=self.device)
            self.all_reduce(arrived)
            arrived.item()  # NCCL sums in the background: reading the result waits for it

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


@contextmanager
def init_process_group(device: torch.device) -> Iterator[World]:
    """Join the processes that were started together, for the duration of a `with`.

    They communicate through gloo on CPUs and through NCCL on GPUs. Raises DalleError if the others
    cannot be reached or one is lost, and UsageError if the environment contradicts itself.
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
        device = _gpu_of_rank(ranks)
        torch.cuda.set_device(device)
    store = _connect(ranks, device)
    world = World(ranks, device)

    try:
        with world.watchdog.watching(ranks, store):
            yield world
    except RuntimeError as error:
        is_of_group = "gloo" in str(error) or "NCCL" in str(error)
        if not is_of_group or is_out_of_memory(error):
            raise
        raise DalleError(
            f"process {ranks.rank} of {ranks.size} has lost another: {error}",
            exit_code=LOST_ANOTHER,
        ) from error
    finally:
        torch.distributed.destroy_process_group()


def _gpu_of_rank(ranks: Ranks) -> torch.device:
    """Return the GPU numbered by the local rank, or the only one that SLURM makes visible."""
    n_devices = torch.cuda.device_count()
    if n_devices == 1 and "SLURM_LOCALID" in os.environ:
        return torch.device("cuda", 0)

    if ranks.local_rank >= n_devices:
        message = f"process {ranks.local_rank} of this machine has no GPU: there are {n_devices}"
        raise UsageError(message)
    return torch.device("cuda", ranks.local_rank)


def _connect(ranks: Ranks, device: torch.device) -> Store:
    """Join the other processes; returns the store through which they met."""
    is_gpu = device.type == "cuda"
    os.environ["MASTER_ADDR"] = main_address()
    os.environ.setdefault("MASTER_PORT", "29500")
    met: list[Store] = []
    waiting = Timer(UNTOLD_WAIT, _describe_wait, [ranks, met])
    waiting.daemon = True
    waiting.start()
    try:
        with stopped_at_once():
            met.append(_open_store(ranks))
            publish_host(met[0], ranks)
            torch.distributed.init_process_group(
                "nccl" if is_gpu else "gloo",
                store=met[0],
                rank=ranks.rank,
                world_size=ranks.size,
                timeout=TIMEOUT,
                device_id=device if is_gpu else None,  # NCCL connects now, and not in training
            )
    except (RuntimeError, ValueError) as error:
        absent = absent_ranks(met[0] if met else None, ranks)
        whom = name_ranks(absent, ranks) if absent else "the others"
        message = f"process {ranks.rank} of {ranks.size} can't reach {whom}: {error}"
        raise DalleError(message) from error
    finally:
        waiting.cancel()
    return met[0]


def _open_store(ranks: Ranks) -> Store:
    """Open the store of the main process, or of torchrun's agent, without waiting for others."""
    is_agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=ranks.is_main and not is_agents,
        wait_for_workers=False,
        timeout=TIMEOUT,
        multi_tenant=True,
    )
    # an agent's store holds what an earlier start of its processes has left
    return PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def _describe_wait(ranks: Ranks, met: list[Store]) -> None:
    """Print which processes this one waits for, once on each machine.

    met  the store through which they meet, once it is there: that of the main process
    """
    try:
        # torch's stubs lack clone
        store = met[0].clone() if met else None  # type: ignore[attr-defined]
    except RuntimeError:  # the main process has gone: whoever waits for it tells that
        return
    absent = absent_ranks(store, ranks)
    if absent and ranks.local_rank == 0:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        write_line(
            f"process {ranks.rank} is waiting for {name_ranks(absent, ranks)} at {place}, "
            f"for {TIMEOUT.seconds // 60} minutes at most; "
            "unset RANK and WORLD_SIZE if it is to run alone"
        )
