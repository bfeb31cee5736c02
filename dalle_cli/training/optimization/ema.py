"""The moving average of the weights, which validation, previews and the saved model use (Ramesh et al. 2021, B.2).

Where a GPU trains and the average moves only now and then, it lies in the host's memory, as in the paper: copies are
sent there when it is due and join the average at the next update, so that nothing waits for them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from dalle_cli.config import EmaTable


class Ema:
    """An average of parameters, or of a process's partitions of them, by name.

    The decay in force after n updates is min(decay, (1 + n) / (10 + n)), so that a short run is not dominated by the
    initial weights; the first update copies.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], table: EmaTable, place: torch.device | None = None
    ) -> None:
        """place: where the average lies, away from the parameters; none: as `ema_device` says."""
        self.table = table
        self.n_updates = 0
        self._parameters = dict(parameters)
        self._place = place or ema_device(table, next(iter(self._parameters.values())).device)
        self._weights = {
            name: p.detach().to(self._place, copy=True) for name, p in self._parameters.items()
        }
        self._sent: _Copies | None = None

    @property
    def weights(self) -> dict[str, Tensor]:
        """The average itself, by name."""
        self._take_in()
        return self._weights

    def follow(self, n_applied: int) -> None:
        """Move the average where that is due after so many updates of the parameters."""
        self._take_in()
        if n_applied % self.table.every == 0:
            self.update()

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the parameters."""
        decay = (
            min(self.table.decay, (1 + self.n_updates) / (10 + self.n_updates))
            if self.n_updates
            else 0.0
        )
        self._take_in()
        parameters = list(self._parameters.values())
        if self._place is None:
            torch._foreach_lerp_(list(self._weights.values()), parameters, 1 - decay)
        else:
            self._sent = _Copies(parameters, self._place, 1 - decay)
        self.n_updates += 1

    @torch.no_grad()
    def _take_in(self) -> None:
        """Move the average towards the copies that have been sent, if any."""
        if self._sent is not None:
            torch._foreach_lerp_(
                list(self._weights.values()), self._sent.arrived(), self._sent.weight
            )
            self._sent = None

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Let the parameters' module compute with the averaged weights for a while."""
        trained, weights = (
            {name: parameter.data for name, parameter in self._parameters.items()},
            self.weights,
        )
        try:
            for name, parameter in self._parameters.items():
                parameter.data = weights[name].to(parameter.device)
            yield
        finally:
            for name, parameter in self._parameters.items():
                parameter.data = trained[name]


class _Copies:
    """Copies of tensors on their way to another device, and the weight they will have in the average."""

    def __init__(self, tensors: list[Tensor], place: torch.device, weight: float) -> None:
        self.weight = weight
        self._copies = [
            tensor.detach().to(place, non_blocking=True, copy=True) for tensor in tensors
        ]
        self._end = torch.cuda.Event() if tensors[0].is_cuda else None
        if self._end is not None:
            self._end.record()

    def arrived(self) -> list[Tensor]:
        """Give the copies, once all are there."""
        if self._end is not None:
            self._end.synchronize()
        return self._copies


def ema_device(table: EmaTable, device: torch.device) -> torch.device | None:
    """Choose the host's memory for the average of what lies on a GPU, where it moves only now and then; else none."""
    return torch.device("cpu") if device.type == "cuda" and table.every > 1 else None
