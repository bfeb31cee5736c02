"""Image embeddings for captions: from a prior of either kind, or from the caption itself.

Axes used below:

    B batch    D width of CLIP's embedding    n candidates of a picture, or codes
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dalle_cli.errors import UsageError, printable
from dalle_cli.generation.sampling import SamplingSettings, sample_tokens, token_probabilities
from dalle_cli.generation.unclip.caption_inputs import EncodedCaptions
from dalle_cli.generation.unclip.noise import NoiseKey, gaussian_numbers, uniform_numbers
from dalle_cli.generation.unclip.settings import (
    N_PRIOR_CANDIDATES,
    PRIOR_STEPS,
    UnclipSettings,
    sampling_grid,
)
from dalle_cli.loading.unclip_parts import CodePriorParts, DiffusionPriorParts, PriorParts
from dalle_cli.models.diffusion.noise_schedules import NoiseSchedule, noise_schedule
from dalle_cli.models.unclip.autoregressive_prior import sample_codes
from dalle_cli.models.unclip.diffusion_prior import keep_closest, sample_embeddings
from dalle_cli.runtime.precision import Precision, apply_precision

STAGE = "prior"
FP32_BYTES = 4
VALUES_PER_SLOT = 32  # times the width: what a block normalises, expands and adds
LARGEST_DEVIATIONS = 6.0  # of an entry; an embedding's own are smaller


class EmbeddingGuesser(Protocol):
    """What guesses the embedding of a picture from its caption."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The fields of a picture's record that state how its embedding was guessed."""
        ...

    def guess(self, captions: EncodedCaptions, keys: Sequence[NoiseKey]) -> Tensor:
        """Return unit vectors [B, D] for the captions of as many pictures."""
        ...

    def n_bytes(self, n_samples: int) -> int:
        """Estimate the memory that guessing takes in addition to the loaded models."""
        ...


@dataclass(frozen=True)
class DiffusionGuesser:
    """Samples embeddings from a diffusion prior, and keeps the closest of each caption's.

    grid           the steps that are sampled
    log_variances  float64 [N], of those steps
    is_measured    whether these are the optimal ones, which were measured after training
    """

    parts: DiffusionPriorParts
    grid: NoiseSchedule
    log_variances: Tensor
    is_measured: bool
    guidance: float
    device: torch.device

    @property
    def settings(self) -> dict[str, Any]:
        """Fields of a record."""
        return {
            "prior": self.parts.checksum,
            "prior_steps": len(self.grid),
            "prior_guidance": self.guidance,
            "prior_variances": "measured" if self.is_measured else "posterior",
        }

    @torch.inference_mode()
    def guess(self, captions: EncodedCaptions, keys: Sequence[NoiseKey]) -> Tensor:
        """Sample candidates of each picture, and return the one closest to its caption."""
        table = self.parts.table
        shape = (N_PRIOR_CANDIDATES, table.d_embed)

        def noise_at(index: int | str) -> Tensor:
            noise = gaussian_numbers(keys, stage=STAGE, index=index, shape=shape)
            return noise.to(self.device)  # [B, n, D]

        candidates = sample_embeddings(
            self.parts.prior,
            self.grid,
            captions.inputs(reads_tokens=table.text_vocab_size is not None),
            captions.embeddings,
            start=noise_at("start"),
            noise_at=noise_at,
            log_variances=self.log_variances,
            guidance=self.guidance,
            limit=LARGEST_DEVIATIONS * table.embedding_rms,
        )
        return keep_closest(candidates, captions.embeddings)

    def n_bytes(self, n_samples: int) -> int:
        """Estimate the activations of a layer."""
        table, prior = self.parts.table, self.parts.prior
        n_rows = n_samples * N_PRIOR_CANDIDATES * (1 if self.guidance == 1 else 2)
        return _activation_bytes(n_rows, len(prior.position), table.d_model, table.n_heads)


@dataclass(frozen=True)
class CodeGuesser:
    """Samples the codes of embeddings from an autoregressive prior."""

    parts: CodePriorParts
    guidance: float
    device: torch.device

    @property
    def settings(self) -> dict[str, Any]:
        """Fields of a record."""
        return {"prior": self.parts.checksum, "prior_guidance": self.guidance}

    @torch.inference_mode()
    def guess(self, captions: EncodedCaptions, keys: Sequence[NoiseKey]) -> Tensor:
        """Sample a cosine from the better half, then code by code, and decode the codes."""
        prior, codec = self.parts.prior, self.parts.codec
        first, *others = (
            uniform_numbers(keys, stage=STAGE, n=1 + prior.n_codes).to(self.device).unbind(1)
        )  # [B] each

        def choose(logits: Tensor, number: int) -> Tensor:
            return sample_tokens(token_probabilities(logits, SamplingSettings()), others[number])

        codes = sample_codes(
            prior,
            codec.sample_cosine_codes(first.float()),
            captions.inputs(reads_tokens=False),
            captions.embeddings,
            choose=choose,
            guidance=self.guidance,
        )  # [B, n]
        return codec.decode(codes)

    def n_bytes(self, n_samples: int) -> int:
        """Estimate keys and values of all layers, and the activations of one."""
        table = self.parts.table
        n_rows = n_samples * (1 if self.guidance == 1 else 2)
        n_slots = len(self.parts.prior.position)
        cache = 2 * 2 * n_rows * n_slots * table.d_model * table.n_layers * FP32_BYTES  # and a copy
        return cache + _activation_bytes(n_rows, n_slots, table.d_model, table.n_heads)


@dataclass(frozen=True)
class TextGuesser:
    """Takes the caption's embedding for the picture's: DALL-E 2 without a prior."""

    @property
    def settings(self) -> dict[str, Any]:
        """Fields of a record."""
        return {"prior": "text"}

    def guess(self, captions: EncodedCaptions, keys: Sequence[NoiseKey]) -> Tensor:
        """Return the captions' embeddings."""
        return captions.embeddings

    def n_bytes(self, n_samples: int) -> int:
        """Return 0: they are there already."""
        return 0


@dataclass(frozen=True)
class NoGuesser:
    """Leaves the embedding out, so that the decoder sees the caption alone."""

    @property
    def settings(self) -> dict[str, Any]:
        """Fields of a record."""
        return {"prior": "none"}

    def guess(self, captions: EncodedCaptions, keys: Sequence[NoiseKey]) -> Tensor:
        """Return zeros, which the decoder replaces."""
        return torch.zeros_like(captions.embeddings)

    def n_bytes(self, n_samples: int) -> int:
        """Return 0."""
        return 0


def prior_guesser(
    parts: PriorParts,
    settings: UnclipSettings,
    *,
    name: str,
    device: torch.device,
    precision: Precision,
) -> DiffusionGuesser | CodeGuesser:
    """Put a prior on a device, to guess embeddings with.

    name  of the prior, for messages

    Raises UsageError for settings that this prior can't be sampled with.
    """
    check_guidance(settings.prior_guidance, parts.dropouts, option="--prior-guidance", name=name)
    is_coded = isinstance(parts, CodePriorParts)
    if is_coded and settings.prior_steps is not None:
        message = f"{printable(name)} is autoregressive: it takes no steps of diffusion"
        raise UsageError(message, "leave out `--prior-steps`")

    apply_precision(parts.prior, precision, device)
    parts.prior.to(device)
    if isinstance(parts, CodePriorParts):
        parts.codec.to(device)
        return CodeGuesser(parts, settings.prior_guidance, device)

    table = parts.table.diffusion
    schedule = noise_schedule(table.schedule, table.n_steps)
    option = "--prior-steps"
    grid = sampling_grid(schedule, settings.prior_steps, usual=PRIOR_STEPS, option=option)
    variances, is_measured = grid.posterior_log_variance, False
    if parts.variances is not None and parts.variances.steps == grid.timesteps.tolist():
        variances, is_measured = parts.variances.log_variances(schedule), True
    return DiffusionGuesser(parts, grid, variances, is_measured, settings.prior_guidance, device)


def check_guidance(
    guidance: float, dropouts: Mapping[str, float], *, option: str, name: str
) -> None:
    """Raise UsageError for guidance away from what a model never learned: no conditions.

    dropouts  shares of training without each condition; empty if they are not known
    """
    never = [key for key, share in dropouts.items() if share == 0]
    if guidance != 1 and never:
        listed = " and ".join(f"`loss.{key}`" for key in sorted(never))
        raise UsageError(
            f"`{option} {guidance:g}` compares with no condition at all, which {printable(name)} "
            f"never saw in training: {listed} was 0",
            f"leave out `{option}`",
        )


def _activation_bytes(n_rows: int, n_slots: int, width: int, n_heads: int) -> int:
    return n_rows * n_slots * (VALUES_PER_SLOT * width + 2 * n_heads * n_slots) * FP32_BYTES
