"""The task of the diffusion prior: CLIP's image embedding, denoised for a caption.

Ramesh et al. 2022, section 2.2. A micro-batch's loss is its share of the global batch's. Knows
nothing of optimizers, engines or files. Axes used below:

    B batch    D width of CLIP's embedding    n candidates of a caption
"""

from collections.abc import Iterable, Mapping

import torch
from PIL import Image
from torch import Tensor

from dalle_cli.config import PriorLossTable, PriorModelTable
from dalle_cli.data.loader import Batch
from dalle_cli.models.diffusion.noise_schedules import noise_schedule, strided_steps
from dalle_cli.models.diffusion.samplers import Denoiser, sample_ancestral
from dalle_cli.models.unclip.diffusion_prior import DiffusionPrior, keep_closest, prior_loss
from dalle_cli.training.metric_log import Metrics
from dalle_cli.training.tasks.noise import normal_noise, timestep_indices, uniforms
from dalle_cli.training.tasks.unclip.clip_pairs import ClipPairs, PairEncoder
from dalle_cli.training.tasks.unclip.embedding_figures import EmbeddingFigures
from dalle_cli.training.tasks.unclip.embedding_sheet import embedding_sheet

N_CANDIDATES = 2  # of which the one closer to the caption is kept, as published
SAMPLING_STEPS = 64  # as published
PLACES = (5, 25, 50, 75, 95)  # per cent of the schedule at which the held-out loss is measured


class DiffusionPriorTask:
    """Trains a prior to predict image embeddings from noisy ones and captions."""

    formats: Mapping[str, str] = {
        "valid/cosine_to_image": "cosine to the picture {:.3f}",
        "valid/cosine_to_text": "to the caption {:.3f}",
        "valid/cosine_of_pairs": "(pairs {:.3f})",
    }

    def __init__(
        self,
        prior: DiffusionPrior,
        encode: PairEncoder,
        model: PriorModelTable,
        loss: PriorLossTable,
        seed: int,
    ) -> None:
        """encode: embeds the pairs of a batch."""
        self.module = prior
        self._encode = encode
        self._table = loss
        self._seed = seed
        self._schedule = noise_schedule(model.diffusion.schedule, model.diffusion.n_steps)

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        """Return the micro-batch's share of the relative squared error."""
        pairs = self._encode(batch)
        chances = uniforms(
            self._seed, batch.positions, purpose="dropped", shape=(1,), device=pairs.images.device
        ).squeeze(1)  # [B]
        index = timestep_indices(self._seed, batch.positions, len(self._schedule))
        is_dropped = chances < self._table.caption_dropout
        losses = self._losses(pairs, batch.positions, index=index, is_dropped=is_dropped)

        loss = losses.sum() / batch.global_size
        metrics: Metrics = {
            "train/loss": loss.detach(),
            "train/captions_cut": sum(batch.are_cut) / batch.global_size,
        }
        return loss, metrics

    def _losses(
        self, pairs: ClipPairs, positions: list[int], *, index: Tensor, is_dropped: Tensor
    ) -> Tensor:
        """Compute the loss of each sample: [B]."""
        return prior_loss(
            self.module,
            self._schedule,
            pairs.images,
            captions=pairs.captions,
            text_embeddings=pairs.texts,
            is_dropped=is_dropped,
            noise=self._noise(pairs, positions, "noise"),
            index=index,
        )

    def _noise(self, pairs: ClipPairs, positions: list[int], purpose: str, *, n: int = 0) -> Tensor:
        """Sample noise for each sample, [B, D], or for n candidates of each, [B, n, D]."""
        shape = (n, pairs.images.shape[1]) if n else (pairs.images.shape[1],)
        device = pairs.images.device
        return normal_noise(self._seed, positions, purpose=purpose, shape=shape, device=device)

    def validate(self, batches: Iterable[Batch], step: int) -> dict[str, float]:
        """Compute the loss, at random steps and at five places of the schedule, and sample.

        The loss is relative to the mean square of the embeddings: 1 is that of predicting zero.
        """
        n_steps, n_samples, loss = len(self._schedule), 0, 0.0
        at_places = dict.fromkeys(PLACES, 0.0)
        figures = EmbeddingFigures()
        for batch in batches:
            pairs, positions = self._encode(batch), batch.positions
            none = torch.zeros(len(positions), dtype=torch.bool, device=pairs.images.device)
            index = timestep_indices(self._seed, positions, n_steps)
            losses = self._losses(pairs, positions, index=index, is_dropped=none)
            loss += float(losses.sum())
            for place in PLACES:
                index = torch.full((len(positions),), n_steps * place // 100, device="cpu")
                losses = self._losses(pairs, positions, index=index, is_dropped=none)
                at_places[place] += float(losses.sum())

            candidates = self._sample(self.module, pairs, positions)
            figures.add(pairs, candidates, captions=batch.captions)
            n_samples += len(positions)

        by_place = {f"valid/loss_at_{place}": at_places[place] / n_samples for place in PLACES}
        return {"valid/loss": loss / n_samples, **by_place, **figures.means()}

    def _sample(self, prior: DiffusionPrior, pairs: ClipPairs, positions: list[int]) -> Tensor:
        """Sample candidates for each caption, of any length: [B, n, D].

        The prior is called as a whole at each step: under ZeRO 3 nothing else has its parameters.
        """
        captions = pairs.captions.repeated(N_CANDIDATES)
        texts = pairs.texts.repeat_interleave(N_CANDIDATES, dim=0)  # [B n, D]
        none = torch.zeros(len(texts), dtype=torch.bool, device=texts.device)

        n_steps = len(self._schedule)
        steps = strided_steps(n_steps, [min(SAMPLING_STEPS, n_steps)])
        grid = self._schedule.respaced(steps)
        denoiser = Denoiser(
            lambda noisy, timesteps: prior(noisy, timesteps, captions, texts, none),
            grid,
            "clean",
            limit=None,
            log_variances=grid.posterior_log_variance,
        )

        def noise_at(index: int | str) -> Tensor:
            noise = self._noise(pairs, positions, f"sample {index}", n=N_CANDIDATES)
            return noise.flatten(0, 1)  # [B n, D]

        sampled = sample_ancestral(denoiser, noise_at("start"), noise_at)
        return sampled.unflatten(0, (-1, N_CANDIDATES))  # [B, n, D]

    def preview(self, whole: DiffusionPrior, batch: Batch, step: int) -> Image.Image:
        """Render what the prior guesses from the held-out captions of a batch."""
        pairs = self._encode(batch)
        guessed = keep_closest(self._sample(whole, pairs, batch.positions), pairs.texts)
        return embedding_sheet(batch, pairs, guessed)
