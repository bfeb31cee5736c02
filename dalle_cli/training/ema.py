"""The moving average of the weights, which validation, previews and the saved model use."""

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

    def __init__(self, parameters: Mapping[str, Tensor], table: EmaTable) -> None:
        self.table = table
        self.n_updates = 0
        self._parameters = dict(parameters)
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in self._parameters.items()}

    def follow(self, n_applied: int) -> None:
        """Move the average where that is due after so many updates of the parameters."""
        if n_applied % self.table.every == 0:
            self.update()

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the parameters."""
        decay = min(self.table.decay, (1 + self.n_updates) / (10 + self.n_updates)) if self.n_updates else 0.0
        torch._foreach_lerp_(list(self.weights.values()), list(self._parameters.values()), 1 - decay)
        self.n_updates += 1

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Let the parameters' module compute with the averaged weights for a while."""
        trained = {name: parameter.data for name, parameter in self._parameters.items()}
        try:
            for name, parameter in self._parameters.items():
                parameter.data = self.weights[name]
            yield
        finally:
            for name, parameter in self._parameters.items():
                parameter.data = trained[name]
