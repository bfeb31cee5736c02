"""Models built for their shapes, or for weights that are about to replace their own.

Knows nothing of any model: it leaves out what `torch.nn.init` would do.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def meta_device() -> Iterator[None]:
    """Build models without values, of any size, on the meta device.

    Torch initialises even there, and imports its compiler to do so: a second for no value.
    """
    with torch.device("meta"), UninitialisedWeights():
        yield


class UninitialisedWeights(TorchFunctionMode):
    """Context in which the functions of `torch.nn.init` leave tensors as they are."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function, unless it would initialise the tensor that it is given."""
        named = kwargs or {}
        if getattr(func, "__module__", None) == torch.nn.init.__name__:
            return named["tensor"] if "tensor" in named else args[0]
        return func(*args, **named)
