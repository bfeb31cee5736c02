"""training.tasks.dvae: to be described."""

from collections.abc import Iterable

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
    """The relaxed evidence lower bound on pictures (Ramesh et al. 2021, section 2.1, appendix A)."""

    def __init__(self, dvae: DiscreteVAE, loss: DVAELossTable, seed: int) -> None:
        self.module = dvae
        self._table = loss
        self._seed = seed

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        """Negative bound per pixel value, in nats, of the micro-batch's share."""
        images = batch.images
        if self._table.dequantization:
            noise = uniform_noise(
                self._seed, batch.positions, tuple(images.shape[1:]), images.device
            )
            images = (images + self._table.dequantization * noise).clamp(0, 1)
        temperature = cosine(self._table.temperature, step)
        kl_weight = cosine(self._table.kl_weight, step)
        nll, kl, _ = self._bound(images, batch.positions, temperature)
        n_values = batch.global_size * images[0].numel()
        reconstruction, kl_sum = nll.sum() / n_values, kl.sum()
        share = len(images) / batch.global_size
        loss = reconstruction + kl_weight * kl_sum / n_values
        metrics = {
            "train/loss": loss.detach(),
            "train/nats_per_value": reconstruction.detach(),
            "train/kl_per_cell": kl_sum.detach() / (batch.global_size * kl[0].numel()),
            "train/temperature": temperature * share,
            "train/kl_weight": kl_weight * share,
        }
        return loss, metrics

    def _bound(
        self, images: Tensor, positions: list[int], temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Give -ln p(x|z) per value [B, 3, H, W], z drawn from the relaxation, the KL per cell [B, g, g], and mu."""
        logits = self.module.codebook_logits(images)
        cells = logits.movedim(1, -1)  # noise is laid out as the logits are
        gumbel = gumbel_noise(self._seed, positions, tuple(cells.shape[1:]), logits.device).movedim(
            -1, 1
        )
        mu, log_scale = self.module.decode_soft(relax(logits, temperature, gumbel))
        if self._table.min_log_scale is not False:
            log_scale = log_scale.clamp(min=self._table.min_log_scale)
        return logit_laplace_nll(map_pixels(images), mu, log_scale), kl_to_uniform(logits), mu

    def validate(self, batches: Iterable[Batch], step: int) -> dict[str, float]:
        """Measure the bound with the relaxation in force, and reconstruction and codebook use with hard tokens.

        The loss is the one that the schedules end with, so that it can be compared over the run. The relaxed gap is
        what hard tokens lose against the relaxation, which the temperature is lowered to close (appendix A.2).
        """
        temperature, kl_weight = cosine(self._table.temperature, step), self._table.kl_weight.end
        vocab_size = self.module.vocab_size
        nll = kl = hard_error = relaxed_error = 0.0
        n_values = n_cells = 0
        counts, blank_counts = torch.zeros(2, vocab_size, dtype=torch.int64)
        for batch in batches:
            batch_nll, batch_kl, mu = self._bound(batch.images, batch.positions, temperature)
            image_tokens = self.module.image_tokens(batch.images)
            nll += float(batch_nll.sum())
            kl += float(batch_kl.sum())
            relaxed_error += float((unmap_pixels(mu.sigmoid()) - batch.images).square().sum())
            hard_error += float((self.module.decode(image_tokens) - batch.images).square().sum())
            counts += code_counts(image_tokens, vocab_size)
            is_blank = blank_cells(batch.images, self.module.grid_size)
            blank_counts += code_counts(image_tokens[is_blank], vocab_size)
            n_values += batch_nll.numel()
            n_cells += batch_kl.numel()
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
        """Held-out pictures above their reconstructions from hard tokens."""
        images = batch.images
        rebuilt = whole.decode(whole.image_tokens(images))
        return labelled_grid(
            [("", [to_image(x) for x in images]), ("", [to_image(x) for x in rebuilt])]
        )
