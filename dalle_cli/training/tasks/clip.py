"""training.tasks.clip: to be described."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dalle_cli.data.images import to_image
from dalle_cli.data.loader import Batch
from dalle_cli.losses import contrastive_loss
from dalle_cli.metrics import recall_at, retrieval_ranks
from dalle_cli.models.clip import Clip
from dalle_cli.runtime.distributed import World
from dalle_cli.training.metric_log import Metrics
from dalle_cli.viz import labelled_grid


class ClipTask:
    """Telling which caption belongs to which picture of a batch (Radford et al. 2021, section 2.3)."""

    def __init__(self, clip: Clip, world: World) -> None:
        """world: the processes whose pairs are compared with one another."""
        self.module = clip
        self._world = world

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        """The symmetric cross-entropy over the global batch, which can't be cut: it compares all pairs.

        Every process computes all of the loss, but differentiates by its own embeddings alone, and by its share of the
        scale: the sum over processes is the gradient.
        """
        clip, n_processes = self.module, self._world.size
        clip.clip_scale()
        images, texts = (self._joined(embeddings) for embeddings in _embeddings(clip, batch))
        scale = clip.logit_scale.exp()
        scale = scale.detach() + (scale - scale.detach()) / n_processes
        logits = scale * images @ texts.T
        loss = contrastive_loss(logits)
        hits = (
            (logits.detach().argmax(dim=1) == torch.arange(len(logits), device=logits.device))
            .float()
            .mean()
        )
        metrics = {
            "train/loss": loss.detach() / n_processes,
            "train/batch_accuracy": hits / n_processes,
            "train/logit_scale": scale.detach() / n_processes,
            "train/captions_cut": sum(batch.are_cut) / batch.global_size,
        }
        return loss, metrics

    def _joined(self, own: Tensor) -> Tensor:
        """Put those of all processes [B, E] below one another, in the order of the global batch."""
        parts = self._world.all_gather_tensors(own)
        parts[self._world.rank] = own
        return torch.cat(parts)

    def validate(self, batches: Iterable[Batch], step: int) -> dict[str, float]:
        """Measure the loss over all held-out pairs at once, and how often the match is among the first retrieved.

        Pictures with the same caption are matches of one another's.
        """
        batches = list(batches)
        clip, captions = self.module, [caption for batch in batches for caption in batch.captions]
        images, texts = map(
            torch.cat, zip(*(_embeddings(clip, batch) for batch in batches), strict=True)
        )
        cosines = images @ texts.T
        is_match = torch.tensor(
            [[a == b for b in captions] for a in captions], device=cosines.device
        )
        figures = {"valid/loss": float(contrastive_loss(clip.logit_scale.exp() * cosines))}
        for name, similarity in (("text", cosines), ("image", cosines.T)):
            ranks = retrieval_ranks(similarity, is_match)
            figures |= {f"valid/{name}_recall_at_{k}": recall_at(k, ranks) for k in (1, 5)}
        return figures

    def preview(self, whole: Clip, batch: Batch, step: int) -> Image.Image:
        """For held-out captions, the pictures of the batch, the likeliest first."""
        images, texts = _embeddings(whole, batch)
        pictures = [to_image(image) for image in batch.images]
        order = (texts @ images.T).argsort(dim=1, descending=True).tolist()
        return labelled_grid(
            [
                (c, [pictures[i] for i in best])
                for c, best in zip(batch.captions, order, strict=True)
            ]
        )


def _embeddings(clip: Clip, batch: Batch) -> tuple[Tensor, Tensor]:
    """Embed a batch's pictures and captions: unit vectors [B, E] each."""
    images = F.normalize(clip.encode_image(clip.normalise(batch.images)), dim=1)
    return images, F.normalize(clip.encode_text(batch.text_tokens), dim=1)
