"""The launcher behind `--gpus N`: the same command in N processes of this machine.

It waits until all have ended. If one fails, the others are stopped, since they would wait for it
forever. Imports no torch.
"""

import os
import signal
import socket
import subprocess
import sys
import time

from dalle_cli.errors import DalleError
from dalle_cli.runtime.processes.ranks import LOST_ANOTHER
from dalle_cli.runtime.signals import STOP_SIGNALS, stop_signals_forwarded

GRACE = 20.0  # seconds that the others have to notice a failure and exit
POLL = 0.1  # seconds
# wrong usage and requests to stop: the first process has already printed everything about them
SELF_EXPLAINED = (2, *(128 + number for number in STOP_SIGNALS))


def launch(n_processes: int, words: list[str]) -> None:
    """Run `dalle` with the words of its command line in n processes and wait for them.

    Raises DalleError naming the process that failed.
    """
    port = free_port()
    with stop_signals_forwarded() as forwarded_to:
        children = []
        for rank in range(n_processes):
            children.append(_start(rank, words, n_processes=n_processes, port=port))
            forwarded_to(children[-1])
        failed = _wait(children)
    if failed is None:
        return

    code = children[failed].returncode
    has_explained_itself = failed == 0 and code == 1  # the first process, with `error:`
    if code in SELF_EXPLAINED or has_explained_itself:
        sys.exit(code)
    ended_by_signal = code < 0
    how = (
        f"was ended by {signal.Signals(-code).name}"
        if ended_by_signal
        else f"ended with exit code {code}"
    )
    raise DalleError(
        f"process {failed} of {n_processes} {how}; the others were stopped",
        exit_code=128 - code if ended_by_signal else code,
    )


def _start(rank: int, words: list[str], *, n_processes: int, port: int) -> subprocess.Popen:
    threads = {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // n_processes, 1))}
    ranks = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(n_processes),
        "MASTER_PORT": str(port),
        "MASTER_ADDR": "127.0.0.1",
    }
    command = [sys.executable, "-m", "dalle_cli", *words]
    # in process groups of their own, so that Ctrl-C reaches them only once: forwarded
    return subprocess.Popen(command, env=threads | os.environ | ranks, process_group=0)


def _wait(children: list[subprocess.Popen]) -> int | None:
    """Wait until all children have ended, or one has failed and the others are stopped.

    Returns the rank of the child that failed first by itself, if any.
    """
    while not any(child.poll() for child in children) and any(
        child.poll() is None for child in children
    ):
        time.sleep(POLL)

    codes = _stop(children)
    failed = [rank for rank, code in enumerate(codes) if code]
    return min(
        failed, key=lambda rank: (codes[rank] == LOST_ANOTHER, (codes[rank] or 0) > 0), default=None
    )


def _stop(children: list[subprocess.Popen]) -> list[int | None]:
    """Wait a while for the children to exit, then kill the rest, whose exit code is None here."""
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline and any(child.poll() is None for child in children):
        time.sleep(POLL)

    codes = [child.poll() for child in children]
    for child in children:
        child.kill()
        child.wait()
    return codes


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
