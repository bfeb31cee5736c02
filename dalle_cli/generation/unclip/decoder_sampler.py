"""Embeddings to pictures with a decoder, and pictures back to the noise they could come from.

Axes used below:

    B batch    D width of CLIP's embedding    R side of a picture
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dalle_cli.generation.unclip.noise import NoiseKey, gaussian_numbers
from dalle_cli.generation.unclip.prior_samplers import check_guidance
from dalle_cli.generation.unclip.settings import (
    DECODER_STEPS,
    DiffusionSampler,
    UnclipSettings,
    sampling_grid,
)
from dalle_cli.loading.unclip_parts import DecoderParts
from dalle_cli.models.diffusion.noise_schedules import NoiseSchedule, noise_schedule
from dalle_cli.models.diffusion.samplers import (
    Denoiser,
    invert_ddim,
    sample_ancestral,
    sample_ddim,
)
from dalle_cli.models.unclip.caption_encoders import CaptionInputs
from dalle_cli.models.unclip.decoder import N_COLOURS, UnclipDecoder, decoder_net
from dalle_cli.runtime.precision import Precision, apply_precision

STAGE = "decoder"
FP32_BYTES = 4
# of a level's size at once in a residual block: a skip beside what comes from below, and copies
LIVE_MAPS = 16


@dataclass(frozen=True)
class DecoderSampler:
    """A decoder on a device, and how pictures are sampled from it.

    grid  the steps that are sampled
    eta   of DDIM: the share of the randomness of ancestral sampling
    """

    decoder: UnclipDecoder
    parts: DecoderParts
    grid: NoiseSchedule
    sampler: DiffusionSampler
    guidance: float
    device: torch.device
    eta: float = 0.0

    @property
    def settings(self) -> dict[str, Any]:
        """Fields of a record."""
        return {
            "steps": len(self.grid),
            "sampler": self.sampler,
            "guidance": self.guidance,
            "model": self.parts.checksum,
            **({} if self.parts.step is None else {"checkpoint": self.parts.step}),
        }

    @property
    def reads_captions(self) -> bool:
        """Whether the decoder has a text path."""
        return self.decoder.captions is not None

    def with_eta(self, eta: float) -> "DecoderSampler":
        """Return the same decoder with DDIM of a share of randomness."""
        return replace(self, sampler="ddim", eta=eta)

    def start(self, keys: Sequence[NoiseKey]) -> Tensor:
        """Sample the noise that pictures begin with: [B, 3, R, R]."""
        return self._noise(keys, "start")

    @torch.inference_mode()
    def sample(
        self,
        embeddings: Tensor,
        captions: CaptionInputs | None,
        keys: Sequence[NoiseKey],
        *,
        start: Tensor | None = None,
        is_embedding_dropped: bool = False,
    ) -> Tensor:
        """Sample pictures [B, 3, R, R] in [0, 1].

        embeddings            [B, D], of any length
        captions              None: without any, as a decoder that reads none needs it
        start                 [B, 3, R, R], the noise to begin with; None: of the keys
        is_embedding_dropped  whether all embeddings are left out
        """
        denoiser = self._denoiser(
            embeddings,
            captions,
            guidance=self.guidance,
            limit=1.0,
            is_embedding_dropped=is_embedding_dropped,
        )
        x = self.start(keys) if start is None else start.to(self.device)

        def noise_at(index: int) -> Tensor:
            return self._noise(keys, index)

        if self.sampler == "ddim":
            sampled = sample_ddim(denoiser, x, eta=self.eta, noise_at=noise_at)
        else:
            sampled = sample_ancestral(denoiser, x, noise_at)
        return ((sampled + 1) / 2).clamp(0, 1)

    @torch.inference_mode()
    def invert(self, images: Tensor, embeddings: Tensor) -> Tensor:
        """Find the noise [B, 3, R, R] from which DDIM of eta 0 paints pictures again.

        images      [B, 3, R, R] in [0, 1]
        embeddings  [B, D], theirs

        Unguided and without captions or clipping, since both would break the way back.
        """
        denoiser = self._denoiser(
            embeddings, None, guidance=1.0, limit=None, is_embedding_dropped=False
        )
        return invert_ddim(denoiser, 2 * images.to(self.device) - 1)

    def _denoiser(
        self,
        embeddings: Tensor,
        captions: CaptionInputs | None,
        *,
        guidance: float,
        limit: float | None,
        is_embedding_dropped: bool,
    ) -> Denoiser:
        n = len(embeddings)
        if captions is None and self.decoder.captions is not None:
            captions = self.decoder.captions.no_captions(n, self.device)
        net = decoder_net(
            self.decoder,
            embeddings.to(self.device),
            captions,
            guidance=guidance,
            is_embedding_dropped=torch.full((n,), is_embedding_dropped, device=self.device),
        )
        table = self.parts.table
        variances = None if table.learns_variance else self.grid.posterior_log_variance
        return Denoiser(net, self.grid, table.predicts, limit=limit, log_variances=variances)

    def _noise(self, keys: Sequence[NoiseKey], index: int | str) -> Tensor:
        side = self.decoder.image_size
        shape = (N_COLOURS, side, side)
        return gaussian_numbers(keys, stage=STAGE, index=index, shape=shape).to(self.device)

    def bytes_per_picture(self) -> int:
        """Estimate what a step takes per picture: skips of all levels, and the widest level."""
        unet = self.parts.table.unet
        side = self.parts.table.image_size // self.parts.table.patch_size
        maps = [
            unet.channels * multiple * (side // 2**level) ** 2
            for level, multiple in enumerate(unet.multiples)
        ]
        n_values = (unet.depth + 1) * sum(maps) + LIVE_MAPS * max(maps)
        return n_values * FP32_BYTES * (1 if self.guidance == 1 else 2)


def decoder_sampler(
    parts: DecoderParts,
    settings: UnclipSettings,
    *,
    name: str,
    device: torch.device,
    precision: Precision,
) -> DecoderSampler:
    """Put a decoder on a device, to sample pictures from.

    name  of the decoder, for messages

    Raises UsageError for settings that this decoder can't be sampled with.
    """
    decoder, table = parts.decoder, parts.table
    reads_captions = decoder.captions is not None
    dropouts = {
        key: share
        for key, share in parts.dropouts.items()
        if reads_captions or key == "embedding_dropout"
    }
    check_guidance(settings.guidance, dropouts, option="--guidance", name=name)

    schedule = noise_schedule(table.diffusion.schedule, table.diffusion.n_steps)
    grid = sampling_grid(schedule, settings.steps, usual=DECODER_STEPS, option="--steps")
    apply_precision(decoder, precision, device)
    # torch's stubs lack memory_format
    decoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return DecoderSampler(decoder, parts, grid, settings.sampler, settings.guidance, device)
