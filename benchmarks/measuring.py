"""Measure a piece of work in this process, and print its seconds and memory as one line of JSON.

Also runs in a peer's environment, and so knows nothing but torch.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

TIMES = 2  # at least
SECONDS = 1.0  # at least
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


def measure(work: Callable[[], object], flops: float = 0, moved: float = 0, **more: float) -> None:
    """Run the work once to warm up, then repeatedly, and print the seconds of each run.

    flops  floating-point operations that the work needs, 0 if unknown
    moved  bytes that it reads and writes, for work that does nothing else
    more   figures to be printed as they are
    """
    work()
    seconds: list[float] = []
    cpu_seconds: list[float] = []
    while len(seconds) < TIMES or sum(seconds) < SECONDS:
        start, cpu_start = time.perf_counter(), time.process_time()
        work()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    report(seconds, flops, moved, cpu_seconds=cpu_seconds, **more)


def report(seconds: list[float], flops: float = 0, moved: float = 0, **more: Any) -> None:
    """Print the seconds of each run and the peak memory of the process, and further figures."""
    figures = {
        "seconds": seconds,
        "flops": flops,
        "moved": moved,
        "peak_bytes": peak_bytes(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        **more,
    }
    print(json.dumps(figures))


def peak_bytes() -> int:
    """Return the most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT


def count_flops(work: Callable[[], object]) -> int:
    """Count the floating-point operations in matrix products and convolutions of the work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()
