"""How the processes that were started together meet, and end together.

Knows nothing of what they do.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Timer

import torch
import torch.distributed
from torch.distributed import PrefixStore, ProcessGroup, Store, TCPStore

from dalle_cli.errors import DalleError, UsageError
from dalle_cli.runtime.devices import is_out_of_memory
from dalle_cli.runtime.distributed import World, single_process
from dalle_cli.runtime.processes.late_ranks import absent_ranks, name_ranks, publish_host
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


@contextmanager
def init_process_group(device: torch.device) -> Iterator[World]:
    """Join the processes that were started together, for the duration of a `with`.

    They communicate through gloo on CPUs, and on GPUs through NCCL and, for what the host reads,
    gloo. Raises DalleError if the others cannot be reached or one is lost, and UsageError if the
    environment contradicts itself.
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
    store, host_group = _connect(ranks, device)
    world = World(ranks, device, host_group=host_group)

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


def _connect(ranks: Ranks, device: torch.device) -> tuple[Store, ProcessGroup | None]:
    """Join the other processes; returns the store through which they met, and the hosts' group."""
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
            host_group = None
            if is_gpu:
                host_group = torch.distributed.new_group(backend="gloo", timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        absent = absent_ranks(met[0] if met else None, ranks)
        whom = name_ranks(absent, ranks) if absent else "the others"
        message = f"process {ranks.rank} of {ranks.size} can't reach {whom}: {error}"
        raise DalleError(message) from error
    finally:
        waiting.cancel()
    return met[0], host_group


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
