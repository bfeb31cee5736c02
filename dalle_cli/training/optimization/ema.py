"""The exponential moving average of the weights (EMA), which validation, previews and `model/` use.

Ramesh et al. 2021, appendix B.2. Where a GPU trains and the average moves only now and then, the
average stays in the host's memory, as in the paper: copies of the weights are sent there when an
update of the average is due and join it at the next update of the weights, so that nothing waits
for them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from dalle_cli.config import EmaTable
from dalle_cli.runtime.devices import HostCopies


class Ema:
    """An average of parameters, or of a process's partitions of them, by name.

    The decay after n updates is min(decay, (1 + n) / (10 + n)), so that a short run is not
    dominated by the initial weights; the first update copies.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], table: EmaTable, device: torch.device | None = None
    ) -> None:
        """device: a device for the average other than the parameters'; None: see `ema_device`."""
        self.table = table
        self.n_updates = 0
        self._parameters = dict(parameters)
        self._device = device or ema_device(table, next(iter(self._parameters.values())).device)
        self._weights = {
            name: p.detach().to(self._device, copy=True) for name, p in self._parameters.items()
        }
        self._sent: HostCopies | None = None
        self._sent_weight = 0.0  # of the copies in the average

    @property
    def weights(self) -> dict[str, Tensor]:
        """The averaged weights, by name."""
        self._merge_copies()
        return self._weights

    def follow(self, n_applied: int) -> None:
        """Update the average if that is due after `n_applied` updates of the parameters."""
        self._merge_copies()
        if n_applied % self.table.every == 0:
            self.update()

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the parameters."""
        self._merge_copies()
        warm_up = (1 + self.n_updates) / (10 + self.n_updates)
        decay = min(self.table.decay, warm_up) if self.n_updates else 0.0

        parameters = list(self._parameters.values())
        if self._device is None:
            torch._foreach_lerp_(list(self._weights.values()), parameters, 1 - decay)
        else:
            self._sent, self._sent_weight = HostCopies(parameters, self._device), 1 - decay
        self.n_updates += 1

    @torch.no_grad()
    def _merge_copies(self) -> None:
        """Move the average towards the copies that have been sent, if there are any."""
        if self._sent is not None:
            averages = list(self._weights.values())
            torch._foreach_lerp_(averages, self._sent.arrived(), self._sent_weight)
            self._sent = None

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Make the parameters' module compute with the averages inside a `with`."""
        trained = {name: parameter.data for name, parameter in self._parameters.items()}
        averages = self.weights
        try:
            for name, parameter in self._parameters.items():
                parameter.data = averages[name].to(parameter.device)
            yield
        finally:
            for name, parameter in self._parameters.items():
                parameter.data = trained[name]


def ema_device(table: EmaTable, device: torch.device) -> torch.device | None:
    """Return the CPU where a GPU's weights are averaged only now and then, else None."""
    return torch.device("cpu") if device.type == "cuda" and table.every > 1 else None
