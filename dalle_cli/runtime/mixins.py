"""The one place where the class of a live module is changed.

A technique such as mixed precision or activation checkpointing is applied around the modules of a
finished model. A wrapper module would do the same computation, but it would rename every parameter
below it ("block.weight" becomes "block.module.weight"), and checkpoints of wrapped and plain models
would no longer fit one another. FSDP2 takes the same way for the same reason.
"""

from torch import nn


def extend_class(module: nn.Module, mixin: type[nn.Module]) -> None:
    """Put a mixin in front of a module's class, in place.

    The mixin's `forward` may call `super().forward`, and must return what that returns: same type,
    same shape. Parameter names stay as they are, and a deep copy of the module keeps the mixin.
    """
    plain = type(module)
    name = f"{mixin.__name__.strip('_')}{plain.__name__}"
    module.__class__ = type(name, (mixin, plain), {})
