"""The task of CLIP: matching the captions and pictures of a batch.

Radford et al. 2021, section 2.3. The loss compares all pairs of the global batch, over all
processes. Knows nothing of optimizers, engines or files.
"""

from collections.abc import Iterable, Mapping

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
    """Trains a CLIP to find each picture's caption in a batch, and each caption's picture."""

    formats: Mapping[str, str] = {
        "train/batch_accuracy": "accuracy {:.1%}",
        "valid/text_recall_at_1": "text recall@1 {:.1%}",
        "valid/text_recall_at_5": "@5 {:.1%}",
        "valid/image_recall_at_1": "image recall@1 {:.1%}",
        "valid/image_recall_at_5": "@5 {:.1%}",
    }

    def __init__(self, clip: Clip, world: World) -> None:
        """world: the processes whose pairs are compared with one another."""
        self.module = clip
        self._world = world

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        """Compute the symmetric cross-entropy over the global batch.

        The batch can't be cut into micro-batches, since the loss compares all its pairs. Every
        process computes the whole loss, but its gradient only with respect to its embeddings, and
        to its share of the scale: the sum over processes is the gradient.
        """
        clip, n_processes = self.module, self._world.size
        clip.clip_scale()
        images, texts = (self._gathered(embeddings) for embeddings in _embeddings(clip, batch))

        scale = clip.logit_scale.exp()
        scale = scale.detach() + (scale - scale.detach()) / n_processes
        logits = scale * images @ texts.T  # [B, B]
        loss = contrastive_loss(logits)

        pairs = torch.arange(len(logits), device=logits.device)
        hits = (logits.detach().argmax(dim=1) == pairs).float().mean()
        metrics: Metrics = {
            "train/loss": loss.detach() / n_processes,
            "train/batch_accuracy": hits / n_processes,
            "train/logit_scale": scale.detach() / n_processes,
            "train/captions_cut": sum(batch.are_cut) / batch.global_size,
        }
        return loss, metrics

    def _gathered(self, embeddings: Tensor) -> Tensor:
        """Concatenate the embeddings of all processes in the order of the global batch: [B, E]."""
        parts = self._world.all_gather_tensors(embeddings)
        parts[self._world.rank] = embeddings  # gathered tensors have no gradients
        return torch.cat(parts)

    def validate(self, batches: Iterable[Batch], step: int) -> dict[str, float]:
        """Compute the loss over all held-out pairs at once, and the recall of both retrievals.

        Recall at k is how often a match is among the first k retrieved. Pictures with the same
        caption count as matches of one another.
        """
        batches = list(batches)
        clip, captions = self.module, [caption for batch in batches for caption in batch.captions]
        embeddings = [_embeddings(clip, batch) for batch in batches]
        images, texts = map(torch.cat, zip(*embeddings, strict=True))  # [N, E] each
        cosines = images @ texts.T  # [N, N]
        is_match = torch.tensor(
            [[a == b for b in captions] for a in captions], device=cosines.device
        )  # [N, N]

        figures = {"valid/loss": float(contrastive_loss(clip.logit_scale.exp() * cosines))}
        for name, similarity in (("text", cosines), ("image", cosines.T)):
            ranks = retrieval_ranks(similarity, is_match)
            figures |= {f"valid/{name}_recall_at_{k}": recall_at(k, ranks) for k in (1, 5)}
        return figures

    def preview(self, whole: Clip, batch: Batch, step: int) -> Image.Image:
        """Render the pictures of the batch next to each held-out caption, the likeliest first."""
        images, texts = _embeddings(whole, batch)
        pictures = [to_image(image) for image in batch.images]
        order = (texts @ images.T).argsort(dim=1, descending=True).tolist()
        rows = zip(batch.captions, order, strict=True)
        return labelled_grid(
            [(caption, [pictures[i] for i in best]) for caption, best in rows],
            columns=("likeliest",),
        )


def _embeddings(clip: Clip, batch: Batch) -> tuple[Tensor, Tensor]:
    """Embed a batch's pictures and captions: unit vectors [B, E] each."""
    images = F.normalize(clip.encode_image(clip.normalise(batch.images)), dim=1)
    return images, F.normalize(clip.encode_text(batch.text_tokens), dim=1)
