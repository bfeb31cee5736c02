"""The protocol of a task: a model's loss over batches, held-out figures and previews.

A micro-batch's loss is its share of the global batch's, so that shares add up however the batch is
cut. A task knows nothing of optimizers, engines or files.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from PIL import Image
from torch import Tensor

from dalle_cli.data.loader import Batch
from dalle_cli.training.engines.engine import ModelT
from dalle_cli.training.metric_log import Metrics


class Task(Protocol[ModelT]):
    """What a model is trained for; the loop knows nothing else of it.

    formats  how the progress line shows the figures that only this task has, by name and in order
    """

    module: ModelT
    formats: Mapping[str, str]

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        """Return the micro-batch's share of the global batch's loss, and its shares of metrics.

        Shares add up to the whole. `train/loss` is among the metrics.
        """
        ...

    def validate(self, batches: Iterable[Batch], step: int) -> dict[str, float]:
        """Return figures over all held-out batches, `valid/loss` among them."""
        ...

    def preview(self, whole: ModelT, batch: Batch, step: int) -> Image.Image:
        """Render the model's work on a few held-out samples; `whole` is like the task's module."""
        ...


if TYPE_CHECKING:
    from dalle_cli.models.clip import Clip
    from dalle_cli.models.dvae import DiscreteVAE
    from dalle_cli.models.unclip.autoregressive_prior import AutoregressivePrior
    from dalle_cli.models.unclip.decoder import UnclipDecoder
    from dalle_cli.models.unclip.diffusion_prior import DiffusionPrior
    from dalle_cli.training.tasks.clip import ClipTask
    from dalle_cli.training.tasks.dvae import DiscreteVAETask
    from dalle_cli.training.tasks.fused_losses import FusedLossTransformer
    from dalle_cli.training.tasks.transformer import TransformerTask
    from dalle_cli.training.tasks.unclip.autoregressive import AutoregressivePriorTask
    from dalle_cli.training.tasks.unclip.decoder import UnclipDecoderTask
    from dalle_cli.training.tasks.unclip.prior import DiffusionPriorTask

    _dvae: type[Task[DiscreteVAE]] = DiscreteVAETask
    _transformer: type[Task[FusedLossTransformer]] = TransformerTask
    _clip: type[Task[Clip]] = ClipTask
    _prior: type[Task[DiffusionPrior]] = DiffusionPriorTask
    _autoregressive_prior: type[Task[AutoregressivePrior]] = AutoregressivePriorTask
    _decoder: type[Task[UnclipDecoder]] = UnclipDecoderTask
