"""What differs between one processor and many: backward, update, and the state that a checkpoint holds.

The loop knows an engine by its verbs alone.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter

from dalle_cli.runtime.distributed import World
from dalle_cli.training.metric_log import Metrics


@dataclass
class EngineState:
    """Everything a run needs to go on.

    tensors     by group ("parameters", "exp_avg", ...) and name; whole ones, that may come into being, in all processes
                together, when they are asked for
    numbers     counts, such as the step
    unreported  the log's figures since the last report, see `MetricLog.state`
    """

    tensors: Mapping[str, Mapping[str, Tensor]]
    numbers: dict[str, int | float]
    unreported: list[dict[str, float]] = field(default_factory=list)


class Trainable(Protocol):
    """A model as an engine sees it: a module that knows which of its parameters are matrices."""

    def matrices(self) -> list[Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]: ...

    def to(self, device: torch.device) -> "Trainable": ...

    def __call__(self, *args: Tensor) -> Any: ...


class Engine(Protocol):
    """The verbs of training."""

    step: int  # updates tried
    device: torch.device
    world: World
    module: Trainable  # the model as a task is to call it

    def backward(self, loss: Tensor) -> None: ...

    def observe(self, loss: float | Tensor) -> None:
        """Take note of the global batch's loss, before its update, whose step size may go by it."""
        ...

    def update(self) -> bool:
        """Apply the gradients gathered since the last update; False when it was skipped as they were not finite."""
        ...

    def metrics(self) -> Metrics:
        """Figures of the last update."""
        ...

    def state(self) -> EngineState: ...

    def restore(self, state: EngineState) -> None: ...

    def averaged(self) -> AbstractContextManager[None]:
        """Compute with the weights that inference will use, inside a `with`."""
        ...

    def whole_model(self) -> AbstractContextManager[Trainable | None]:
        """Give the main process a model with those weights that can do more than `forward`, inside a `with`."""
        ...

    def inference_weights(self) -> Mapping[str, Tensor]:
        """Give those weights by name, as in `EngineState`."""
        ...
