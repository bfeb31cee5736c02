"""The throughput of a run: rates, model FLOPs utilisation (MFU), and the peak of memory."""

import sys
from dataclasses import dataclass

import torch

from dalle_cli.runtime.distributed import World
from dalle_cli.runtime.peak_rates import stored_matmul_rate
from dalle_cli.runtime.precision import Precision

try:
    import resource
except ImportError:  # not on POSIX
    resource = None  # type: ignore[assignment]

MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes


@dataclass(frozen=True)
class SampleCost:
    """The work of one sample of an update; 0 where it is not counted, as for all but transformers.

    flops  of the model's arithmetic
    """

    tokens: int = 0
    flops: int = 0


NOT_COUNTED = SampleCost()


@dataclass(frozen=True)
class Throughput:
    """The work of an update over all processes, from which rates are computed.

    flops        of the model's arithmetic; 0: not counted
    matmul_rate  the best rate of the devices of all processes, in operations per second; None: not
                 measured
    """

    images: int
    device: torch.device
    tokens: int = 0
    flops: int = 0
    matmul_rate: float | None = None

    def figures(self, updates_per_second: float) -> dict[str, float]:
        """Return rates, the MFU, and the peak of this process's memory so far, where known."""
        figures = {"train/images_per_second": self.images * updates_per_second}
        if self.tokens:
            figures["train/tokens_per_second"] = self.tokens * updates_per_second
        if self.flops:
            figures["train/tflops_per_second"] = self.flops * updates_per_second / 1e12
        if self.flops and self.matmul_rate:
            figures["train/mfu"] = self.flops * updates_per_second / self.matmul_rate
        peak = peak_bytes(self.device)
        return figures if peak is None else figures | {"train/peak_memory_gib": peak / 2**30}


def throughput_of(
    cost: SampleCost, batch_size: int, *, precision: Precision, world: World
) -> Throughput:
    """Return the throughput of updates with `batch_size` samples.

    Devices are compared with the rates that `dalle doctor --measure` has stored.
    """
    rate = stored_matmul_rate(world.device, precision)
    return Throughput(
        images=batch_size,
        device=world.device,
        tokens=batch_size * cost.tokens,
        flops=batch_size * cost.flops,
        matmul_rate=rate and rate * world.size,
    )


def peak_bytes(device: torch.device) -> int | None:
    """Return the most bytes that tensors have taken on a GPU, or this process in main memory.

    Returns None where the system does not count the latter.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT
