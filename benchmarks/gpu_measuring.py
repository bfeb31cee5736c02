"""Measure a piece of work on a GPU, and print its figures as one line of JSON.

With GPU_BENCH_DEVICE=cpu the CPU stands in, with tiny sizes, to find mistakes of these scripts.
"""

import gc
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from dalle_cli.runtime.devices import open_device

DEVICE = os.environ.get("GPU_BENCH_DEVICE", "cuda")
IS_SMALL = DEVICE == "cpu"
WARM_UPS = 2
TIMES = 3  # at least
SECONDS = 0.1 if IS_SMALL else 2.0  # at least


def open_gpu() -> torch.device:
    """Return the GPU, set up as the package does it."""
    torch.manual_seed(0)
    return open_device(DEVICE, "fp32")[0]


def measure(
    name: str, work: Callable[[], object], *, n_samples: int, precision: str, **cost: float
) -> None:
    """Run the work to warm up, then repeatedly, and print what it took.

    n_samples  that the work is done for
    precision  in which it multiplies
    cost       `flops`, the operations that it needs, and `moved`, the bytes that it reads and
               writes at the least
    """
    for _ in range(WARM_UPS):
        work()
    wait()

    seconds: list[float] = []
    while len(seconds) < TIMES or sum(seconds) < SECONDS:
        start = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - start)
    tell(name, median_s=statistics.median(seconds), min_s=min(seconds), n_samples=n_samples,
         precision=precision, peak_bytes=peak_bytes(), **cost)  # fmt: skip


def tell(name: str, **figures: Any) -> None:
    """Print a case's figures, at once: a process may be ended before it has told the next."""
    print(json.dumps({"name": name, **figures}), flush=True)


def tell_trouble(name: str, error: BaseException) -> None:
    """Print why a case has no figures."""
    tell(name, trouble=(str(error).strip().splitlines() or [type(error).__name__])[0])


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def peak_bytes() -> int:
    """Return the most bytes that tensors have taken since `forget_peak`; 0 where none counts."""
    return torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0


def forget_peak() -> None:
    """Give memory back that nothing uses, and count its peak anew."""
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@torch.no_grad()
def cost_of(work: Callable[[], object]) -> dict[str, int]:
    """Count operations and bytes of the matrix products and convolutions of the work.

    All else could be fused into them: their operands are read and their results written at least.
    """
    with FlopCounterMode(display=False) as counter, _MatrixBytes() as matrices:
        work()
    return {"flops": counter.get_total_flops(), "moved": matrices.n_bytes}


class _MatrixBytes(TorchDispatchMode):
    """Counts the bytes of operands and results of all that has floating-point operations."""

    def __init__(self) -> None:
        super().__init__()
        self.n_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            tensors = [
                leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)
            ]
            self.n_bytes += sum(tensor.nbytes for tensor in tensors)
        return result
