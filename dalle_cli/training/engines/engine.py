"""The protocol of an engine: backward, update, and the state that a checkpoint stores.

An engine is all that differs between one processor and many. The loop knows engines by this
protocol alone, and an engine knows nothing of losses, data or files.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter

from dalle_cli.runtime.distributed import World
from dalle_cli.training.metric_log import Metrics


@dataclass
class EngineState:
    """Everything that a run needs to resume.

    tensors     by group ("parameters", "exp_avg", ...) and name; whole tensors, which may be
                gathered only when asked for, by all processes together
    numbers     counts, such as the step
    unreported  the log's figures since the last report, see `MetricLog.state`
    losses      the last losses, by which one that leaps is known, see `DivergenceMonitor`
    """

    tensors: Mapping[str, Mapping[str, Tensor]]
    numbers: dict[str, int | float]
    unreported: list[dict[str, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


class Trainable(Protocol):
    """A model as an engine sees it: a module that knows which of its parameters are matrices."""

    def matrices(self) -> list[Parameter]: ...

    def parameters(self) -> Iterator[Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]: ...

    def buffers(self) -> Iterator[Tensor]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any], *, assign: bool) -> object: ...

    def to(self, device: torch.device) -> Self: ...

    def __call__(self, *args: Tensor) -> Any: ...


ModelT = TypeVar("ModelT", bound=Trainable)


class Engine(Protocol[ModelT]):
    """One update of a model, on one processor or many."""

    device: torch.device
    world: World
    module: ModelT  # the model as a task must call it

    @property
    def step(self) -> int:
        """The number of attempted updates."""
        ...

    @property
    def has_scales(self) -> bool:
        """Whether it trains in fp16, with gradient scales that expect overflows now and then."""
        ...

    def can_recover(self) -> bool:
        """Return whether lower gradient scales may end the overflow of the last update."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those accumulated since the last update."""
        ...

    def observe(self, loss: float | Tensor) -> None:
        """Record the global batch's loss before its update: the learning rate may depend on it."""
        ...

    def update(self) -> bool:
        """Apply the accumulated gradients; return False where they were not finite, and skipped."""
        ...

    def discard(self) -> None:
        """Discard the accumulated gradients: the update counts as attempted, and skipped."""
        ...

    def metrics(self) -> Metrics:
        """Return figures of the last update."""
        ...

    def state(self) -> EngineState:
        """Return everything a run needs to resume; all processes take part and get the same."""
        ...

    def restore(self, state: EngineState) -> None:
        """Restore a state of the same model; raises ValueError naming tensors that do not fit."""
        ...

    def averaged(self) -> AbstractContextManager[None]:
        """Compute with the weights that inference will use, inside a `with`."""
        ...

    def whole_model(self) -> AbstractContextManager[ModelT | None]:
        """Yield a model with those weights that can do more than `forward`.

        Only the main process gets it; the others get None.
        """
        ...

    def inference_weights(self) -> Mapping[str, Tensor]:
        """Return those weights by name, as in `EngineState`."""
        ...
