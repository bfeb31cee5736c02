"""How fast a run trains and what it takes: the figures of a report that belong to the machine, not to the model."""

import resource
import sys
from dataclasses import dataclass

import torch

MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes


@dataclass(frozen=True)
class Throughput:
    """What each update does, over all processes.

    flops        of the model's arithmetic; 0: not reckoned, as for all but transformers
    matmul_rate  what the devices of all processes can do at best, in operations a second; none: not measured
    """

    images: int
    device: torch.device
    tokens: int = 0
    flops: int = 0
    matmul_rate: float | None = None

    def figures(self, updates_per_second: float) -> dict[str, float]:
        """Give rates, the share of what is possible, and the peak of this process's memory so far."""
        figures = {"train/images_per_second": self.images * updates_per_second}
        if self.tokens:
            figures["train/tokens_per_second"] = self.tokens * updates_per_second
        if self.flops:
            figures["train/tflops_per_second"] = self.flops * updates_per_second / 1e12
        if self.flops and self.matmul_rate:
            figures["train/mfu"] = self.flops * updates_per_second / self.matmul_rate
        return figures | {"train/peak_memory_gib": peak_bytes(self.device) / 2**30}


def peak_bytes(device: torch.device) -> int:
    """Count the most bytes that tensors have taken on a GPU, or this process in the host's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT
