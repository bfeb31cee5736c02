"""How many threads compute on a CPU: as many as other programs leave cores for.

Threads that share an operation wait for the slowest of them, in a loop that keeps their cores busy;
where one of them has to wait for its core, all do. On busy cores a single thread is then several
times as fast as two. The number of threads decides in which order numbers are summed, hence the
last bits of results: whoever needs these fixes it, by `--threads N` or OMP_NUM_THREADS.
"""

import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

FIXED = "OMP_NUM_THREADS"  # the environment variable that fixes the number of threads
NEGLIGIBLE = 0.3  # cores; below it others cost less than a thread gives
BRIEF_LOOK, LONG_LOOK = 0.1, 0.5  # seconds, the second where the first shows others at work
INTERVAL = 5.0  # seconds between decisions
BUSY_STATES = (0, 1, 2, 5, 6, 7)  # columns of /proc/stat: user, nice, system, irq, softirq, steal


class CoreTimes(NamedTuple):
    """Seconds: on the clock, of this process, and of all programs, on the cores that it may use."""

    clock: float
    own: float
    all: float


def core_times() -> CoreTimes | None:
    """Return the times until now; None where the system does not report them as Linux does."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
        names = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        rows = [words[1:] for words in map(str.split, lines) if words and words[0] in names]
        ticks = sum(int(row[state]) for row in rows for state in BUSY_STATES)
    except (OSError, AttributeError, ValueError, IndexError):
        return None
    return CoreTimes(time.perf_counter(), time.process_time(), ticks / os.sysconf("SC_CLK_TCK"))


def threads_that_fit(before: CoreTimes, now: CoreTimes, *, n_cores: int, most: int) -> int:
    """Return how many threads have a core to themselves, at least 1 and at most `most`."""
    others = (now.all - before.all - now.own + before.own) / (now.clock - before.clock)
    return min(max(int(n_cores - others + NEGLIGIBLE), 1), most)


@cache
def most_threads() -> int:
    """Return the number of threads that torch chose for this machine, before any adaptation."""
    return torch.get_num_threads()


class ThreadsByLoad:
    """Adapts the number of threads that compute to what other programs leave of the cores.

    Data workers count among the others. Does nothing on a GPU, where the number is fixed, or where
    the system does not report how busy the cores are.

    say  prints a note, once: when fewer threads compute for the first time
    """

    def __init__(self, device: torch.device, say: Callable[[str], None]) -> None:
        self._say = say
        self._has_said = False
        self._most = most_threads()
        is_fixed = FIXED in os.environ or self._most == 1 or device.type != "cpu"
        self._before = None if is_fixed else core_times()

    def look(self) -> None:
        """Decide at once, from the load of a moment; a shorter burst of load changes nothing."""
        if self._before is not None:
            time.sleep(BRIEF_LOOK)
            if self._fitting() < self._most:
                self._before = core_times()
                time.sleep(LONG_LOOK)
            self._decide()

    def adapt(self) -> None:
        """Decide if that is due; to be called often, from the thread that computes."""
        before = self._before
        if before is not None and time.perf_counter() - before.clock > INTERVAL:
            self._decide()

    def _fitting(self) -> int:
        """Return the threads that fit since the last decision."""
        before, now = self._before, core_times()
        if before is None or now is None:
            return self._most
        n_cores = len(os.sched_getaffinity(0))
        return threads_that_fit(before, now, n_cores=n_cores, most=self._most)

    def _decide(self) -> None:
        n_threads = self._fitting()
        self._before = core_times()
        if n_threads != torch.get_num_threads():
            torch.set_num_threads(n_threads)
        if n_threads < self._most and not self._has_said:
            self._has_said = True
            self._say(
                f"other programs use the cores: computing with {n_threads} of {self._most} threads "
                f"while they do, which may change last digits; `--threads {self._most}` does not"
            )
