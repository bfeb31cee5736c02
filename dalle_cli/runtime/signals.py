"""Requests to stop: which signals they are, and forwarding them to other processes.

Imports no torch.
"""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

# Ctrl-C, `kill`, a closed terminal, and what job schedulers send before the time is up; not every
# system has them all
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
STOP_SIGNALS = tuple(
    getattr(signal.Signals, name) for name in NAMES if hasattr(signal.Signals, name)
)


def stop_signals() -> list[signal.Signals]:
    """Return the signals that ask this process to stop; under `nohup`, SIGHUP is none of them."""
    return [
        number
        for number in STOP_SIGNALS
        if number.name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN
    ]


@contextmanager
def stop_signals_forwarded(
    children: list[subprocess.Popen], *, same_group: bool = False
) -> Iterator[None]:
    """Forward requests to stop to child processes, for the duration of a `with`.

    same_group  whether the children are in the process group of this process, where Ctrl-C reaches
                them without being forwarded
    """

    def forward(number: int, _: object) -> None:
        if same_group and number == signal.SIGINT:
            return
        for child in children:
            child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
