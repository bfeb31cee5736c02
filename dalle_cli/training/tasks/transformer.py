"""The task of the transformer: next-token prediction over caption and image tokens.

Ramesh et al. 2021, section 2.2. A micro-batch's loss is its share of the global batch's. Knows
nothing of optimizers, engines or files.
"""

from collections.abc import Iterable, Mapping

import torch
from PIL import Image
from torch import Tensor

from dalle_cli.config import TransformerLossTable
from dalle_cli.data.images import to_image
from dalle_cli.data.loader import Batch
from dalle_cli.generation.sampling import Sampler, SamplingSettings, candidate_uniforms
from dalle_cli.losses import weigh
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.training.metric_log import Metrics
from dalle_cli.training.tasks.fused_losses import FusedLossTransformer
from dalle_cli.training.tasks.noise import noisy_tokens
from dalle_cli.training.tasks.preview_captions import NO_PREVIEW_CAPTIONS, PreviewCaptions
from dalle_cli.viz import labelled_grid, side_by_side


class TransformerTask:
    """Trains a transformer on the weighted cross-entropies of text and image tokens."""

    formats: Mapping[str, str] = {
        "train/loss_text": "text {:.3f}",
        "train/loss_image": "image {:.3f}",
        "train/image_token_accuracy": "accuracy {:.1%}",
        "valid/nats_per_image_token": "image {:.3f} nats/token",
        "valid/bits_per_image_token": "{:.3f} bits/token",
        "valid/image_token_accuracy": "accuracy {:.1%}",
    }

    def __init__(
        self,
        transformer: FusedLossTransformer,
        dvae: DiscreteVAE,
        loss: TransformerLossTable,
        seed: int,
        *,
        preview_captions: PreviewCaptions = NO_PREVIEW_CAPTIONS,
    ) -> None:
        """dvae: frozen; it encodes images as image tokens and decodes them.

        preview_captions  captions for previews besides those held out
        """
        self.module = transformer
        self._dvae = dvae
        self._table = loss
        self._seed = seed
        self._preview_captions = preview_captions

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        """Return the micro-batch's share of the weighted cross-entropies, in nats per token."""
        text, image, hits = self._cross_entropies(
            batch,
            n_text_tokens=batch.global_text_tokens,
            n_samples=batch.global_size,
            noise=self._table.token_noise,
        )
        loss = weigh(text, image, self._table.text_weight)

        metrics: Metrics = {
            "train/loss": loss.detach(),
            "train/loss_text": text.detach(),
            "train/loss_image": image.detach(),
            "train/image_token_accuracy": hits / (batch.global_size * self.module.image_len),
            "train/captions_cut": sum(batch.are_cut) / batch.global_size,
        }
        return loss, metrics

    def _cross_entropies(
        self, batch: Batch, *, n_text_tokens: int, n_samples: int, noise: float = 0.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute both sums of -ln p, divided by the counts, and the count of image tokens hit.

        A token is hit where it is the likeliest.
        """
        image_tokens = self._image_tokens(batch)
        given = None
        if noise:
            given = noisy_tokens(
                image_tokens,
                self.module.image_vocab_size,
                noise=noise,
                seed=self._seed,
                positions=batch.positions,
            )
        text, image, hits = self.module(batch.text_tokens, image_tokens, given)
        return text / max(n_text_tokens, 1), image / (n_samples * self.module.image_len), hits

    @torch.no_grad()
    def _image_tokens(self, batch: Batch) -> Tensor:
        """Return image tokens int64 [B, I], encoded here unless the batch brings them."""
        if batch.image_tokens is not None:
            return batch.image_tokens
        return self._dvae.image_tokens(batch.images)

    def validate(self, batches: Iterable[Batch], step: int) -> dict[str, float]:
        """Compute both cross-entropies and the accuracy over all held-out pairs."""
        text = image = hits = 0.0
        n_text_tokens = n_samples = 0
        for batch in batches:
            sums = self._cross_entropies(batch, n_text_tokens=1, n_samples=1)
            batch_text, batch_image, batch_hits = sums
            text += float(batch_text)
            image += float(batch_image)
            hits += int(batch_hits)
            n_text_tokens += int((batch.text_tokens >= 0).sum())
            n_samples += len(batch.positions)

        n_image_tokens = n_samples * self.module.image_len
        loss_text = text / max(n_text_tokens, 1)
        loss_image = image * self.module.image_len / n_image_tokens
        return {
            "valid/loss": weigh(loss_text, loss_image, self._table.text_weight),
            "valid/loss_text": loss_text,
            "valid/nats_per_image_token": loss_image,
            "valid/image_token_accuracy": hits / n_image_tokens,
        }

    def preview(self, whole: FusedLossTransformer, batch: Batch, step: int) -> Image.Image:
        """Render reconstructions next to pictures generated from their held-out captions.

        Beside them are pictures generated from the captions for previews, if there are any.
        """
        generated = self._generate(whole, batch.captions, batch.text_tokens)
        rebuilt = map(to_image, self._dvae.decode(self._image_tokens(batch)))
        rows = zip(batch.captions, rebuilt, generated, strict=True)
        held_out = labelled_grid(
            [(caption, [left, right]) for caption, left, right in rows],
            columns=("reconstruction", "generated"),
        )
        if not self._preview_captions.captions:
            return held_out

        wanted = [
            (caption, [picture])
            for captions, text_tokens in self._preview_captions.batches(len(batch.captions))
            for caption, picture in zip(
                captions, self._generate(whole, captions, text_tokens), strict=True
            )
        ]
        return side_by_side([held_out, labelled_grid(wanted, columns=("generated",))])

    def _generate(
        self, whole: FusedLossTransformer, captions: list[str], text_tokens: Tensor
    ) -> list[Image.Image]:
        """Generate a picture of each caption, from the same random numbers in every preview."""
        uniforms = torch.cat(
            [
                candidate_uniforms(self._seed, caption, numbers=[0], n_tokens=whole.image_len)
                for caption in captions
            ]
        )  # [B, I]
        sampler = Sampler(whole, SamplingSettings())
        image_tokens = sampler.sample(text_tokens, uniforms)  # [B, I]
        return [to_image(image) for image in self._dvae.decode(image_tokens)]
