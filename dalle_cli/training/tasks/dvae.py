"""The task of the discrete VAE: the relaxed evidence lower bound.

Ramesh et al. 2021, section 2.1 and appendix A. A micro-batch's loss is its share of the global
batch's. Knows nothing of optimizers, engines or files.
"""

from collections.abc import Iterable, Mapping

import torch
from PIL import Image
from torch import Tensor

from dalle_cli.config import DVAELossTable
from dalle_cli.data.images import to_image
from dalle_cli.data.loader import Batch
from dalle_cli.losses import kl_to_uniform, logit_laplace_nll
from dalle_cli.metrics import blank_cells, code_counts, perplexity, psnr
from dalle_cli.models.dvae import DiscreteVAE, map_pixels, relax, unmap_pixels
from dalle_cli.training.metric_log import Metrics
from dalle_cli.training.optimization.learning_rate import cosine
from dalle_cli.training.tasks.noise import gumbel_noise, uniform_noise
from dalle_cli.viz import labelled_grid


class DiscreteVAETask:
    """Trains a discrete VAE on the negative bound per pixel value."""

    formats: Mapping[str, str] = {
        "train/kl_per_cell": "kl {:.2f}",
        "valid/psnr": "PSNR {:.2f} dB",
        "valid/relaxed_gap_db": "({:+.2f} dB relaxed)",
        "valid/codes_used": "codes in use {:.0f}",
        "valid/perplexity": "perplexity {:.1f}",
        "valid/perplexity_without_blanks": "({:.1f} without blank cells)",
    }

    def __init__(self, dvae: DiscreteVAE, loss: DVAELossTable, seed: int) -> None:
        self.module = dvae
        self._table = loss
        self._seed = seed

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        """Return the micro-batch's share of the negative bound per pixel value, in nats."""
        images = self._dequantized(batch)
        temperature = cosine(self._table.temperature, step)
        kl_weight = cosine(self._table.kl_weight, step)
        nll, kl, _ = self._bound(images, batch.positions, temperature)

        n_values = batch.global_size * images[0].numel()
        reconstruction, kl_sum = nll.sum() / n_values, kl.sum()
        loss = reconstruction + kl_weight * kl_sum / n_values

        share = len(images) / batch.global_size
        metrics: Metrics = {
            "train/loss": loss.detach(),
            "train/nats_per_value": reconstruction.detach(),
            "train/kl_per_cell": kl_sum.detach() / (batch.global_size * kl[0].numel()),
            "train/temperature": temperature * share,
            "train/kl_weight": kl_weight * share,
        }
        return loss, metrics

    def _dequantized(self, batch: Batch) -> Tensor:
        """Return the batch's images with uniform noise on their values, as the recipe asks."""
        images = batch.images
        if not self._table.dequantization:
            return images
        noise = uniform_noise(
            self._seed, batch.positions, shape=tuple(images.shape[1:]), device=images.device
        )
        return (images + self._table.dequantization * noise).clamp(0, 1)

    def _bound(
        self, images: Tensor, positions: list[int], temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute both terms of the bound, with z sampled from the relaxation.

        returns  -ln p(x|z) per value [B, 3, H, W], the KL per cell [B, g, g], and mu [B, 3, H, W]
        """
        logits = self.module.codebook_logits(images)  # [B, K, g, g]
        cells = logits.movedim(1, -1)  # [B, g, g, K], the layout of the noise
        gumbel = gumbel_noise(
            self._seed, positions, shape=tuple(cells.shape[1:]), device=logits.device
        )
        gumbel = gumbel.movedim(-1, 1)  # [B, K, g, g]

        mu, log_scale = self.module.decode_soft(relax(logits, temperature, gumbel))
        if self._table.min_log_scale is not False:
            log_scale = log_scale.clamp(min=self._table.min_log_scale)
        return logit_laplace_nll(map_pixels(images), mu, log_scale), kl_to_uniform(logits), mu

    def validate(self, batches: Iterable[Batch], step: int) -> dict[str, float]:
        """Compute the bound, and reconstruction and codebook use with hard tokens.

        The bound is taken with the temperature and the KL weight that their schedules end with, so
        that it can be compared over the run. The relaxed gap is how much worse hard tokens are than
        the relaxation of this step; the temperature is lowered to close it (appendix A.2).
        """
        temperature, kl_weight = cosine(self._table.temperature, step), self._table.kl_weight.end
        last_temperature = self._table.temperature.end
        vocab_size = self.module.vocab_size
        nll = kl = hard_error = relaxed_error = 0.0
        n_values = n_cells = 0
        counts, blank_counts = torch.zeros(2, vocab_size, dtype=torch.int64)

        for batch in batches:
            batch_nll, batch_kl, mu = self._bound(batch.images, batch.positions, temperature)
            if temperature != last_temperature:
                batch_nll, _, _ = self._bound(batch.images, batch.positions, last_temperature)
            nll += float(batch_nll.sum())
            kl += float(batch_kl.sum())
            n_values += batch_nll.numel()
            n_cells += batch_kl.numel()

            image_tokens = self.module.image_tokens(batch.images)
            relaxed_error += float((unmap_pixels(mu.sigmoid()) - batch.images).square().sum())
            hard_error += float((self.module.decode(image_tokens) - batch.images).square().sum())

            counts += code_counts(image_tokens, vocab_size)
            is_blank = blank_cells(batch.images, self.module.grid_size)
            blank_counts += code_counts(image_tokens[is_blank], vocab_size)

        n_used = int((counts > 0).sum())
        return {
            "valid/loss": (nll + kl_weight * kl) / n_values,
            "valid/nats_per_value": nll / n_values,
            "valid/kl_per_cell": kl / n_cells,
            "valid/psnr": psnr(hard_error / n_values),
            "valid/relaxed_gap_db": psnr(relaxed_error / n_values) - psnr(hard_error / n_values),
            "valid/codes_used": n_used,
            "valid/codes_dead": vocab_size - n_used,
            "valid/perplexity": perplexity(counts),
            "valid/perplexity_without_blanks": perplexity(counts - blank_counts),
        }

    def preview(self, whole: DiscreteVAE, batch: Batch, step: int) -> Image.Image:
        """Render held-out pictures above their reconstructions from hard tokens."""
        images = batch.images
        rebuilt = whole.decode(whole.image_tokens(images))
        rows = (("original", images), ("reconstruction", rebuilt))
        return labelled_grid([(label, [to_image(x) for x in part]) for label, part in rows])
