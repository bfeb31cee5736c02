"""Which weights of a model decay: matrices and kernels, and no gain, bias, embedding or vector."""

from torch import nn

from dalle_cli.models.clip import ClipAttention

LAYERS = (nn.Linear, nn.Conv2d, ClipAttention)


def decayed_weights(model: nn.Module) -> list[nn.Parameter]:
    """List the matrices of linear maps and the kernels of convolutions, in the model's order."""
    layers = (module for module in model.modules() if isinstance(module, LAYERS))
    return [
        parameter
        for layer in layers
        for parameter in layer.parameters(recurse=False)
        if parameter.ndim >= 2
    ]
