"""The one place that changes the class of a live module.

A technique such as mixed precision or activation checkpointing is applied around the modules of a
finished model. A wrapper module would do the same computation, but it would rename every parameter
below it ("block.weight" becomes "block.module.weight"), and checkpoints of wrapped and plain models
would no longer fit one another. FSDP2 changes classes for the same reason.
"""

from typing import TypeVar, cast

from torch import nn

Mixin = TypeVar("Mixin", bound=nn.Module)


def extend_class(module: nn.Module, mixin: type[Mixin]) -> Mixin:
    """Put a mixin in front of a module's class, in place.

    The mixin's `forward` may call `super().forward`, and must return the same type and shape.
    Parameter names stay the same, and a deep copy of the module keeps the mixin. Returns the
    module, typed as the mixin.
    """
    plain = type(module)
    name = f"{mixin.__name__.strip('_')}{plain.__name__}"
    module.__class__ = type(name, (mixin, plain), {})
    return cast(Mixin, module)
