"""What training holds in a GPU's memory besides activations, reckoned from sizes alone."""

from torch import nn

FP32 = 4  # bytes


def largest_layer(model: nn.Module) -> int:
    """Count the values of the module with most parameters of its own: what ZeRO gathers or sums in one go."""
    return max(sum(p.numel() for p in module.parameters(recurse=False)) for module in model.modules())
