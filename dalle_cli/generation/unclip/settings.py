"""How pictures are sampled from a decoder and embeddings from a prior: steps, sampler, guidance."""

import math
from dataclasses import dataclass
from typing import Literal, cast

from dalle_cli.errors import UsageError
from dalle_cli.models.diffusion.noise_schedules import NoiseSchedule, strided_steps
from dalle_cli.storage.model_about import SamplingAdvice

DiffusionSampler = Literal["ancestral", "ddim"]

DECODER_STEPS, PRIOR_STEPS = 250, 64  # as published
N_PRIOR_CANDIDATES = 2  # of which the one closer to the caption is kept, as published


@dataclass(frozen=True)
class UnclipSettings:
    """How a picture is sampled; the defaults are the paper's, but for the decoder's guidance.

    Guidance is null + guidance * (conditional - null), of the prediction with conditions and
    without; 1 is the one with conditions alone, at half the cost.

    steps           of the decoder's noise schedule that are sampled; None: 250, or all if fewer
    sampler         ancestral adds noise at every step; with ddim the first noise alone decides
    prior_steps     the same of a diffusion prior; None: 64, or all if fewer
    prior_guidance  of either kind of prior
    """

    steps: int | None = None
    sampler: DiffusionSampler = "ancestral"
    guidance: float = 1.0
    prior_steps: int | None = None
    prior_guidance: float = 1.0

    def __post_init__(self) -> None:
        """Raise UsageError for numbers that nothing can be sampled with."""
        for name, value in (("guidance", self.guidance), ("prior guidance", self.prior_guidance)):
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{name} must be finite and not negative: {value}")
        for name, steps in (("steps", self.steps), ("prior steps", self.prior_steps)):
            if steps is not None and steps < 2:
                raise UsageError(f"{name} must be at least 2: {steps}")


def choose_unclip_sampling(
    advice: SamplingAdvice,
    *,
    steps: int | None = None,
    sampler: str | None = None,
    guidance: float | None = None,
    prior_steps: int | None = None,
    prior_guidance: float | None = None,
) -> UnclipSettings:
    """Return settings in which None is what is usual, or what the model's author advises.

    Raises UsageError for numbers that nothing can be sampled with.
    """
    usual = UnclipSettings()
    return UnclipSettings(
        steps=steps,
        sampler=cast(DiffusionSampler, sampler or usual.sampler),
        guidance=advice.guidance if guidance is None else guidance,
        prior_steps=prior_steps,
        prior_guidance=usual.prior_guidance if prior_guidance is None else prior_guidance,
    )


def sampling_grid(
    schedule: NoiseSchedule, asked_for: int | None, *, usual: int, option: str
) -> NoiseSchedule:
    """Return the grid of steps that a sampler runs on, strided over a training schedule.

    asked_for  None: the usual number, or all if they are fewer
    option     that asks for it, for the message

    Raises UsageError for more steps than the schedule has.
    """
    n_steps = min(usual, len(schedule)) if asked_for is None else asked_for
    if n_steps > len(schedule):
        raise UsageError(
            f"`{option} {n_steps}` is more than the {len(schedule)} steps of the noise schedule",
            f"give at most `{option} {len(schedule)}`",
        )
    return schedule.respaced(strided_steps(len(schedule), [n_steps]))
