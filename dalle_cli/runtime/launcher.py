"""`--gpus N`: the same command in N processes of this machine, watched until the last one has ended.

Where one fails, the others are stopped, since they would wait for it for ever. Imports no torch.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dalle_cli.errors import DalleError
from dalle_cli.runtime.ranks import LOST_ANOTHER

GRACE = 20.0  # seconds that the others have to notice a failure and end by themselves
POLL = 0.1  # seconds
TOLD = (
    2,
    130,
    143,
)  # wrong usage and requests to stop: the first process has said all there is to say


def launch(n_processes: int, words: list[str]) -> None:
    """Run `dalle` with the words of its command line in n processes; raises DalleError naming the one that failed."""
    children = [
        _start(rank, n_processes, port, words)
        for port in [free_port()]
        for rank in range(n_processes)
    ]
    with _signals_passed_on(children):
        failed = _wait(children)
    if failed is not None:
        code = children[failed].returncode
        if code in TOLD:
            sys.exit(code)
        how = (
            f"was ended by {signal.Signals(-code).name}"
            if code < 0
            else f"ended with exit code {code}"
        )
        raise DalleError(
            f"process {failed} of {n_processes} {how}; the others were stopped",
            exit_code=128 - code if code < 0 else code,
        )


def _start(rank: int, n_processes: int, port: int, words: list[str]) -> subprocess.Popen:
    threads = {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // n_processes, 1))}
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n_processes, "MASTER_PORT": port}
    environment = threads | os.environ | {name: str(value) for name, value in place.items()}
    command = [sys.executable, "-m", "dalle_cli", *words]
    return subprocess.Popen(
        command, env=environment | {"MASTER_ADDR": "127.0.0.1"}, process_group=0
    )


def _wait(children: list[subprocess.Popen]) -> int | None:
    """Wait for all, or for a failure; give the number of the one that failed of itself, once all have ended."""
    while not any(child.poll() for child in children) and any(
        child.poll() is None for child in children
    ):
        time.sleep(POLL)
    codes = _end(children)
    failed = [rank for rank, code in enumerate(codes) if code]
    return min(
        failed, key=lambda rank: (codes[rank] == LOST_ANOTHER, codes[rank] > 0), default=None
    )


def _end(children: list[subprocess.Popen]) -> list[int | None]:
    """Let the children end by themselves for a while, then make them; give the exit codes of those that did."""
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline and any(child.poll() is None for child in children):
        time.sleep(POLL)
    codes = [child.poll() for child in children]
    for child in children:
        child.kill()
        child.wait()
    return codes


@contextmanager
def _signals_passed_on(children: list[subprocess.Popen]) -> Iterator[None]:
    """Pass a request to stop on to the children, which save; in groups of their own, they hear of it once."""

    def pass_on(number: int, _: object) -> None:
        for child in children:
            child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def free_port() -> int:
    """Find a port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
