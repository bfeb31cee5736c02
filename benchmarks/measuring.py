"""Times one piece of work inside a process of its own, and prints what it took as one line of JSON.

Runs in a peer's environment as well, and so knows nothing but torch.
"""

import json
import resource
import sys
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

TIMES = 2  # at least
SECONDS = 1.0  # at least
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


def measure(work: Callable[[], object], flops: float = 0, moved: float = 0) -> None:
    """Do some work once to warm up, then again and again, and print the seconds each took and the process's peak.

    flops  floating-point operations that the work needs, 0 where nobody knows
    moved  bytes that it reads and writes, for work that is nothing else
    """
    work()
    seconds: list[float] = []
    while len(seconds) < TIMES or sum(seconds) < SECONDS:
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    report(seconds, flops, moved)


def report(seconds: list[float], flops: float = 0, moved: float = 0) -> None:
    """Print the seconds that some work took each time, and the process's peak."""
    taken = {
        "seconds": seconds,
        "flops": flops,
        "moved": moved,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    print(json.dumps(taken))


def count_flops(work: Callable[[], object]) -> int:
    """Count the floating-point operations of the matrix products and convolutions of some work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()
