"""training.tasks.task: to be described."""

from collections.abc import Iterable
from typing import Protocol

from PIL import Image
from torch import Tensor, nn

from dalle_cli.data.loader import Batch
from dalle_cli.training.metric_log import Metrics


class Task(Protocol):
    """What a trainable thing says about itself; the loop knows nothing else."""

    module: nn.Module

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        """Share of the global batch's loss that this micro-batch carries; shares, and metrics, add up to the whole.

        Among the metrics is `train/loss`.
        """
        ...

    def validate(self, batches: Iterable[Batch], step: int) -> dict[str, float]:
        """Figures over all held-out batches, among them `valid/loss`."""
        ...

    def preview(self, whole: nn.Module, batch: Batch, step: int) -> Image.Image:
        """Show on a few held-out samples how far the model has come; `whole` is like the task's module."""
        ...
