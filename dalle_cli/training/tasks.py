"""What the models are trained for: the losses of the paper over batches, and figures on held-out samples.

A micro-batch's loss is its share of the global batch's, so that shares add up whatever the batch is cut into.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dalle_cli.config import DVAELossTable, TransformerLossTable
from dalle_cli.data.images import to_image
from dalle_cli.data.loader import Batch
from dalle_cli.losses import contrastive_loss, kl_to_uniform, logit_laplace_nll, weigh
from dalle_cli.metrics import blank_cells, code_counts, perplexity, psnr, recall_at, retrieval_ranks
from dalle_cli.models.clip import Clip
from dalle_cli.models.dvae import DiscreteVAE, map_pixels, relax, unmap_pixels
from dalle_cli.models.transformer import Transformer
from dalle_cli.sampling import Sampler, SamplingSettings, candidate_uniforms
from dalle_cli.training.distributed import World
from dalle_cli.training.metric_log import Metrics
from dalle_cli.training.noise import gumbel_noise, uniform_noise
from dalle_cli.training.schedules import cosine
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
            noise = uniform_noise(self._seed, batch.draws, tuple(images.shape[1:]), images.device)
            images = (images + self._table.dequantization * noise).clamp(0, 1)
        temperature = cosine(self._table.temperature, step)
        kl_weight = cosine(self._table.kl_weight, step)
        nll, kl, _ = self._bound(images, batch.draws, temperature)
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

    def _bound(self, images: Tensor, draws: list[int], temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """Give -ln p(x|z) per value [B, 3, H, W], z drawn from the relaxation, the KL per cell [B, g, g], and mu."""
        logits = self.module.codebook_logits(images)
        cells = logits.movedim(1, -1)  # noise is laid out as the logits are
        gumbel = gumbel_noise(self._seed, draws, tuple(cells.shape[1:]), logits.device).movedim(-1, 1)
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
            batch_nll, batch_kl, mu = self._bound(batch.images, batch.draws, temperature)
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
        return labelled_grid([("", [to_image(x) for x in images]), ("", [to_image(x) for x in rebuilt])])


class TransformerTask:
    """Next-token prediction over caption and image tokens (Ramesh et al. 2021, section 2.2)."""

    def __init__(self, transformer: Transformer, dvae: DiscreteVAE, loss: TransformerLossTable, seed: int) -> None:
        """transformer: one that gives losses; dvae: frozen, from pictures to image tokens and back."""
        self.module = transformer
        self._dvae = dvae
        self._table = loss
        self._seed = seed

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        """The weighted cross-entropies' share of the micro-batch, in nats per token of each kind."""
        text, image, hits = self._cross_entropies(batch, batch.global_text_tokens, batch.global_size)
        loss = weigh(text, image, self._table.text_weight)
        metrics = {
            "train/loss": loss.detach(),
            "train/loss_text": text.detach(),
            "train/loss_image": image.detach(),
            "train/image_token_accuracy": hits / (batch.global_size * self.module.image_len),
            "train/captions_cut": sum(batch.are_cut) / batch.global_size,
        }
        return loss, metrics

    def _cross_entropies(self, batch: Batch, n_text_tokens: int, n_samples: int) -> tuple[Tensor, Tensor, Tensor]:
        """Give both sums of -ln p, divided by the global counts, and how many image tokens were the likeliest."""
        image_tokens = self._image_tokens(batch)
        text, image, hits = self.module(batch.text_tokens, image_tokens)
        return text / max(n_text_tokens, 1), image / (n_samples * self.module.image_len), hits

    @torch.no_grad()
    def _image_tokens(self, batch: Batch) -> Tensor:
        """Give those the batch brings, or what the dVAE makes of its pictures: int64 [B, I]."""
        return self._dvae.image_tokens(batch.images) if batch.image_tokens is None else batch.image_tokens

    def validate(self, batches: Iterable[Batch], step: int) -> dict[str, float]:
        """Measure both cross-entropies and the accuracy over all held-out pairs."""
        text = image = hits = 0.0
        n_text_tokens = n_samples = 0
        for batch in batches:
            batch_text, batch_image, batch_hits = self._cross_entropies(batch, n_text_tokens=1, n_samples=1)
            text, image, hits = text + float(batch_text), image + float(batch_image), hits + int(batch_hits)
            n_text_tokens += int((batch.text_tokens >= 0).sum())
            n_samples += len(batch.draws)
        n_image_tokens = n_samples * self.module.image_len
        loss_text, loss_image = text / max(n_text_tokens, 1), image * self.module.image_len / n_image_tokens
        return {
            "valid/loss": weigh(loss_text, loss_image, self._table.text_weight),
            "valid/loss_text": loss_text,
            "valid/nats_per_image_token": loss_image,
            "valid/image_token_accuracy": hits / n_image_tokens,
        }

    def preview(self, whole: Transformer, batch: Batch, step: int) -> Image.Image:
        """For held-out captions, the picture as the dVAE rebuilds it beside one drawn from the caption."""
        captions = batch.captions
        uniforms = torch.cat([candidate_uniforms(self._seed, c, [0], whole.image_len) for c in captions])
        drawn = self._dvae.decode(Sampler(whole, SamplingSettings()).draw(batch.text_tokens, uniforms))
        rebuilt = self._dvae.decode(self._image_tokens(batch))
        rows = zip(captions, rebuilt, drawn, strict=True)
        return labelled_grid([(caption, [to_image(left), to_image(right)]) for caption, left, right in rows])


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
        hits = (logits.detach().argmax(dim=1) == torch.arange(len(logits), device=logits.device)).float().mean()
        metrics = {
            "train/loss": loss.detach() / n_processes,
            "train/batch_accuracy": hits / n_processes,
            "train/logit_scale": scale.detach() / n_processes,
            "train/captions_cut": sum(batch.are_cut) / batch.global_size,
        }
        return loss, metrics

    def _joined(self, own: Tensor) -> Tensor:
        """Put those of all processes [B, E] below one another, in the order of the global batch."""
        parts = self._world.gather(own)
        parts[self._world.ranks.rank] = own
        return torch.cat(parts)

    def validate(self, batches: Iterable[Batch], step: int) -> dict[str, float]:
        """Measure the loss over all held-out pairs at once, and how often the match is among the first retrieved.

        Pictures with the same caption are matches of one another's.
        """
        batches = list(batches)
        clip, captions = self.module, [caption for batch in batches for caption in batch.captions]
        images, texts = map(torch.cat, zip(*(_embeddings(clip, batch) for batch in batches), strict=True))
        cosines = images @ texts.T
        is_match = torch.tensor([[a == b for b in captions] for a in captions], device=cosines.device)
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
        return labelled_grid([(c, [pictures[i] for i in best]) for c, best in zip(batch.captions, order, strict=True)])


def _embeddings(clip: Clip, batch: Batch) -> tuple[Tensor, Tensor]:
    """Embed a batch's pictures and captions: unit vectors [B, E] each."""
    images = F.normalize(clip.encode_image(clip.normalise(batch.images)), dim=1)
    return images, F.normalize(clip.encode_text(batch.text_tokens), dim=1)
