"""What training holds in a GPU's memory besides activations, reckoned from sizes alone.

As if the average lay there too: where it moves rarely, the host has it, see `ema`.
"""

from torch import nn

FP32 = 4  # bytes
DEALT_OUT = 6  # fp32 values for each parameter at ZeRO 3: in use, master, gradient, two moments, average
GATHERED = 8  # times the largest layer, at the peak: in use, kept, prefetched, its gradient and what sums gradients


def largest_layer(model: nn.Module) -> int:
    """Count the values of the module with most parameters of its own: what ZeRO gathers or sums in one go."""
    return max(sum(p.numel() for p in module.parameters(recurse=False)) for module in model.modules())


def zero3_bytes(n_parameters: int, largest: int, n_processes: int) -> int:
    """Count the bytes of one process at ZeRO 3, as `deepspeed_config` sets it up."""
    return FP32 * (DEALT_OUT * n_parameters // n_processes + GATHERED * largest)


def deepspeed_bf16_bytes(n_parameters: int, largest: int, n_processes: int) -> int:
    """Count what DeepSpeed's estimator says of its bf16 mode at ZeRO 3, which has no average and counts no buffers."""
    return FP32 * largest + 18 * n_parameters // n_processes
