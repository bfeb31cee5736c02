"""What the models are trained for: the losses of the paper over batches, and figures on held-out samples.

A micro-batch's loss is its share of the global batch's, so that shares add up whatever the batch is cut into.
"""

from collections.abc import Iterable

import torch
from PIL import Image
from torch import Tensor

from dalle_cli.config import TransformerLossTable
from dalle_cli.data.images import to_image
from dalle_cli.data.loader import Batch
from dalle_cli.generation.sampling import Sampler, SamplingSettings, candidate_uniforms
from dalle_cli.losses import weigh
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.models.transformer import Transformer
from dalle_cli.training.metric_log import Metrics
from dalle_cli.viz import labelled_grid


class TransformerTask:
    """Next-token prediction over caption and image tokens (Ramesh et al. 2021, section 2.2)."""

    def __init__(
        self, transformer: Transformer, dvae: DiscreteVAE, loss: TransformerLossTable, seed: int
    ) -> None:
        """transformer: one that gives losses; dvae: frozen, from pictures to image tokens and back."""
        self.module = transformer
        self._dvae = dvae
        self._table = loss
        self._seed = seed

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        """The weighted cross-entropies' share of the micro-batch, in nats per token of each kind."""
        text, image, hits = self._cross_entropies(
            batch, batch.global_text_tokens, batch.global_size
        )
        loss = weigh(text, image, self._table.text_weight)
        metrics = {
            "train/loss": loss.detach(),
            "train/loss_text": text.detach(),
            "train/loss_image": image.detach(),
            "train/image_token_accuracy": hits / (batch.global_size * self.module.image_len),
            "train/captions_cut": sum(batch.are_cut) / batch.global_size,
        }
        return loss, metrics

    def _cross_entropies(
        self, batch: Batch, n_text_tokens: int, n_samples: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Give both sums of -ln p, divided by the global counts, and how many image tokens were the likeliest."""
        image_tokens = self._image_tokens(batch)
        text, image, hits = self.module(batch.text_tokens, image_tokens)
        return text / max(n_text_tokens, 1), image / (n_samples * self.module.image_len), hits

    @torch.no_grad()
    def _image_tokens(self, batch: Batch) -> Tensor:
        """Give those the batch brings, or what the dVAE makes of its pictures: int64 [B, I]."""
        return (
            self._dvae.image_tokens(batch.images)
            if batch.image_tokens is None
            else batch.image_tokens
        )

    def validate(self, batches: Iterable[Batch], step: int) -> dict[str, float]:
        """Measure both cross-entropies and the accuracy over all held-out pairs."""
        text = image = hits = 0.0
        n_text_tokens = n_samples = 0
        for batch in batches:
            batch_text, batch_image, batch_hits = self._cross_entropies(
                batch, n_text_tokens=1, n_samples=1
            )
            text, image, hits = (
                text + float(batch_text),
                image + float(batch_image),
                hits + int(batch_hits),
            )
            n_text_tokens += int((batch.text_tokens >= 0).sum())
            n_samples += len(batch.positions)
        n_image_tokens = n_samples * self.module.image_len
        loss_text, loss_image = (
            text / max(n_text_tokens, 1),
            image * self.module.image_len / n_image_tokens,
        )
        return {
            "valid/loss": weigh(loss_text, loss_image, self._table.text_weight),
            "valid/loss_text": loss_text,
            "valid/nats_per_image_token": loss_image,
            "valid/image_token_accuracy": hits / n_image_tokens,
        }

    def preview(self, whole: Transformer, batch: Batch, step: int) -> Image.Image:
        """For held-out captions, the picture as the dVAE rebuilds it beside one drawn from the caption."""
        captions = batch.captions
        uniforms = torch.cat(
            [
                candidate_uniforms(self._seed, c, numbers=[0], n_tokens=whole.image_len)
                for c in captions
            ]
        )
        drawn = self._dvae.decode(
            Sampler(whole, SamplingSettings()).sample(batch.text_tokens, uniforms)
        )
        rebuilt = self._dvae.decode(self._image_tokens(batch))
        rows = zip(captions, rebuilt, drawn, strict=True)
        return labelled_grid(
            [(caption, [to_image(left), to_image(right)]) for caption, left, right in rows]
        )
