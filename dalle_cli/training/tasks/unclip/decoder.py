"""The task of the decoder: pictures without their noise, given CLIP's embeddings and captions.

Ramesh et al. 2022, section 2.1. A micro-batch's loss is its share of the global batch's. Knows
nothing of optimizers, engines or files. Axes used below:

    B batch    R side of a picture    C channels
"""

from collections.abc import Iterable, Mapping

import torch
from PIL import Image
from torch import Tensor

from dalle_cli.config import DecoderLossTable, DecoderModelTable
from dalle_cli.data.images import to_image
from dalle_cli.data.loader import Batch
from dalle_cli.models.diffusion.hybrid_loss import hybrid_loss
from dalle_cli.models.diffusion.noise_schedules import noise_schedule, strided_steps
from dalle_cli.models.diffusion.noising import add_noise
from dalle_cli.models.diffusion.samplers import Denoiser, sample_ddim
from dalle_cli.models.unclip.caption_encoders import CaptionInputs
from dalle_cli.models.unclip.decoder import UnclipDecoder, choose_dropped, decoder_net
from dalle_cli.models.unclip.unet import Uniforms
from dalle_cli.runtime.devices import to_device
from dalle_cli.training.metric_log import Metrics
from dalle_cli.training.tasks.noise import normal_noise, timestep_indices, uniforms
from dalle_cli.training.tasks.unclip.clip_pairs import ClipPairs, PairEncoder
from dalle_cli.viz import labelled_grid

PREVIEW_STEPS = 25
PLACES = (5, 25, 50, 75, 95)  # per cent of the schedule at which the held-out error is measured


class UnclipDecoderTask:
    """Trains a decoder on the squared error of what it predicts and, if learned, its variances."""

    formats: Mapping[str, str] = {
        "train/mse": "error {:.4f}",
        "train/bound": "bound {:.4f}",
        "valid/mse": "error {:.4f}",
        "valid/bound": "bound {:.4f}",
    }

    def __init__(
        self,
        decoder: UnclipDecoder,
        encode: PairEncoder,
        model: DecoderModelTable,
        loss: DecoderLossTable,
        seed: int,
    ) -> None:
        """encode: embeds the pairs of a batch."""
        self.module = decoder
        self._encode = encode
        self._reads_captions = model.text_len is not None
        self._predicts = model.predicts
        self._learns_variance = model.learns_variance
        self._table = loss
        self._seed = seed
        self._schedule = noise_schedule(model.diffusion.schedule, model.diffusion.n_steps)

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        """Return the micro-batch's share of the hybrid loss."""
        positions, device = batch.positions, batch.images.device
        chances = uniforms(self._seed, positions, purpose="dropped", shape=(2,), device=device)
        is_dropped = choose_dropped(
            chances,
            embedding_dropout=self._table.embedding_dropout,
            caption_dropout=self._table.caption_dropout,
        )

        def numbers(number: int, shape: torch.Size) -> Tensor:
            purpose = f"dropout {number}"
            return uniforms(
                self._seed, positions, purpose=purpose, shape=tuple(shape), device=device
            )

        index = timestep_indices(self._seed, positions, len(self._schedule))
        errors, bounds = self._losses(
            batch, self._encode(batch), index=index, is_dropped=is_dropped, numbers=numbers
        )
        error, bound = errors.sum() / batch.global_size, bounds.sum() / batch.global_size
        loss = error + bound
        metrics: Metrics = {
            "train/loss": loss.detach(),
            "train/mse": error.detach(),
            "train/captions_cut": sum(batch.are_cut) / batch.global_size,
        }
        if self._learns_variance:
            metrics["train/bound"] = bound.detach()
        return loss, metrics

    def _losses(
        self,
        batch: Batch,
        pairs: ClipPairs,
        *,
        index: Tensor,
        is_dropped: tuple[Tensor, Tensor],
        numbers: Uniforms | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute both parts of each sample's loss: [B] each.

        is_dropped  whether embeddings, and whether captions, are left out: bool [B] each
        numbers     for dropout; None: no dropout
        """
        clean = 2 * batch.images - 1  # [B, 3, R, R]
        noise = self._noise(batch)
        noisy = add_noise(self._schedule, clean, noise=noise, index=index)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        timesteps = to_device(self._schedule.timesteps[index], noisy.device)

        captions = self._captions(pairs)
        output = self.module(noisy, timesteps, pairs.images, captions, *is_dropped, numbers)
        return hybrid_loss(
            self._schedule,
            output,
            predicts=self._predicts,
            clean=clean,
            noise=noise,
            noisy=noisy,
            index=index,
        )

    def _captions(self, pairs: ClipPairs) -> CaptionInputs | None:
        return pairs.captions if self._reads_captions else None

    def _noise(self, batch: Batch, purpose: str = "noise") -> Tensor:
        """Sample the noise of each sample: [B, 3, R, R]."""
        images = batch.images
        return normal_noise(
            self._seed,
            batch.positions,
            purpose=purpose,
            shape=tuple(images.shape[1:]),
            device=images.device,
        )

    def validate(self, batches: Iterable[Batch], step: int) -> dict[str, float]:
        """Compute the loss with all conditions given, and the error at five places of the schedule.

        The error of a decoder that predicts noise is 1 where it predicts none.
        """
        n_steps, n_samples, error, bound = len(self._schedule), 0, 0.0, 0.0
        at_places = dict.fromkeys(PLACES, 0.0)
        for batch in batches:
            pairs, n = self._encode(batch), len(batch.positions)
            none = torch.zeros(n, dtype=torch.bool, device=batch.images.device)
            index = timestep_indices(self._seed, batch.positions, n_steps)
            errors, bounds = self._losses(batch, pairs, index=index, is_dropped=(none, none))
            error += float(errors.sum())
            bound += float(bounds.sum())
            for place in PLACES:
                index = torch.full((n,), n_steps * place // 100, device="cpu")
                errors, _ = self._losses(batch, pairs, index=index, is_dropped=(none, none))
                at_places[place] += float(errors.sum())
            n_samples += n

        figures = {"valid/loss": (error + bound) / n_samples, "valid/mse": error / n_samples}
        if self._learns_variance:
            figures["valid/bound"] = bound / n_samples
        by_place = {f"valid/mse_at_{place}": at_places[place] / n_samples for place in PLACES}
        return {**figures, **by_place}

    def preview(self, whole: UnclipDecoder, batch: Batch, step: int) -> Image.Image:
        """Render held-out pictures next to those decoded from their embeddings and captions.

        A decoder that reads captions decodes them without embeddings as well.
        """
        pairs = self._encode(batch)
        columns = ["original", "decoded"]
        sampled = [batch.images, self._decode(whole, batch, pairs, without_embedding=False)]
        if self._reads_captions:
            columns.append("from the caption")
            sampled.append(self._decode(whole, batch, pairs, without_embedding=True))

        rows = zip(batch.captions, *sampled, strict=True)
        return labelled_grid(
            [(caption, [to_image(image) for image in images]) for caption, *images in rows],
            columns=columns,
        )

    def _decode(
        self, whole: UnclipDecoder, batch: Batch, pairs: ClipPairs, *, without_embedding: bool
    ) -> Tensor:
        """Decode embeddings, unguided, from the same noise in every preview: [B, 3, R, R]."""
        n, device = len(batch.positions), batch.images.device
        net = decoder_net(
            whole,
            pairs.images,
            self._captions(pairs),
            guidance=1.0,
            is_embedding_dropped=torch.full((n,), without_embedding, device=device),
        )
        n_steps = len(self._schedule)
        grid = self._schedule.respaced(strided_steps(n_steps, [min(PREVIEW_STEPS, n_steps)]))
        variances = grid.posterior_log_variance  # of which DDIM makes no use
        denoiser = Denoiser(net, grid, self._predicts, limit=1.0, log_variances=variances)
        return (sample_ddim(denoiser, self._noise(batch, "preview")) + 1) / 2
