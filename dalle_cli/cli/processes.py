"""`--gpus N`: one command line becomes several processes."""

import sys

import typer

from dalle_cli.errors import UsageError
from dalle_cli.runtime.processes.launcher import launch
from dalle_cli.runtime.processes.ranks import ranks_of_environment


def refuse_standard_input(name: str | None, n_processes: int | None, *, hint: str) -> None:
    """Raise BadParameter where several processes are to read `-`, standard input.

    hint  the parameter whose value the name is
    """
    if name == "-" and n_processes is not None and n_processes > 1:
        message = "standard input can't be read by several processes"
        raise typer.BadParameter(message, param_hint=hint)


def launch_workers(n_processes: int | None) -> bool:
    """Run the command in n processes, wait for them, and return whether they were launched here.

    Launches nothing if n is None, nor in one of n processes that were started already: this process
    is then to run the command. Raises UsageError if another number of processes was started.
    """
    ranks = ranks_of_environment()
    if n_processes is None or ranks.size == n_processes:
        return False

    if ranks.size > 1:
        raise UsageError(
            f"--gpus {n_processes}, but {ranks.size} processes were started", "leave out --gpus"
        )

    launch(n_processes, _without_gpus(sys.argv[1:]))
    return True


def _without_gpus(words: list[str]) -> list[str]:
    kept = [word for word in words if not word.startswith("--gpus=")]
    if "--gpus" in kept:
        index = kept.index("--gpus")
        del kept[index : index + 2]
    return kept
