"""The rank of this process, as stated by its launcher in environment variables.

Understands `dalle ... --gpus N`, torchrun, DeepSpeed's launcher and SLURM's srun. Imports no torch.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from dalle_cli.errors import UsageError

LOST_ANOTHER = 76  # exit code of a process that failed only because another one has gone

SPELLINGS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)


@dataclass(frozen=True)
class Ranks:
    """The rank of this process, the number of processes, and its rank on its own machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which prints and writes for all."""
        return self.rank == 0


def ranks_of_environment(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Read the ranks from environment variables; without any, this is a single process.

    Raises UsageError if the variables contradict one another.
    """
    for names in SPELLINGS:
        if not all(name in environment for name in names[:2]):
            continue

        try:
            rank, size, local_rank = (int(environment.get(name, "0")) for name in names)
        except ValueError:
            raise UsageError(f"{', '.join(names)} are not all numbers") from None

        if not 0 <= rank < size:
            message = f"{names[0]} is {rank} and {names[1]} {size}: no process has that number"
            raise UsageError(message)
        return Ranks(rank, size, local_rank)
    return Ranks()


def main_address(environment: Mapping[str, str] = os.environ) -> str:
    """Return the address of rank 0, by which the processes find one another.

    Under srun that is the first host of the step: `srun` itself may run on a login node.
    """
    hosts = environment.get("SLURM_STEP_NODELIST", "")  # such as a1,b2 or a[01-03,7]-x,b2
    first = re.match(r"(\[[^\]]*\]|[^,\[])+", hosts)
    is_one_machine = environment.get("SLURM_STEP_NUM_NODES", "1") == "1"
    if "MASTER_ADDR" in environment or is_one_machine or first is None:
        return environment.get("MASTER_ADDR", "127.0.0.1")
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first.group())


def check_not_left_alone(environment: Mapping[str, str] = os.environ) -> None:
    """Raise UsageError if a SLURM job of several tasks started this process without srun."""
    n_tasks = environment.get("SLURM_NTASKS", "1")
    if ranks_of_environment(environment).size == 1 and n_tasks.isdigit() and int(n_tasks) > 1:
        message = f"SLURM was asked for {n_tasks} processes, and this is one alone"
        raise UsageError(message, "start it with `srun`, or with `--gpus N` in a job of one task")
