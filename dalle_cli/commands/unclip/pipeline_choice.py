"""The pipeline of a generation job: DALL-E's for a transformer, DALL-E 2's for a decoder."""

from pathlib import Path

import torch

from dalle_cli.generation.dalle import DallePipeline
from dalle_cli.generation.image_prompt import ImagePrompt
from dalle_cli.generation.pipeline import Pipeline
from dalle_cli.generation.sampling import SamplingSettings
from dalle_cli.generation.unclip.pipeline import UnclipPipeline
from dalle_cli.generation.unclip.settings import UnclipSettings
from dalle_cli.runtime.precision import Precision


def open_pipeline(
    run: Path,
    sampling: SamplingSettings | UnclipSettings,
    *,
    seed: int,
    image: ImagePrompt | None,
    prior: str | None,
    checkpoint: str | None,
    device: torch.device,
    precision: Precision,
) -> Pipeline:
    """Load what the settings are for; raises DalleError like both kinds of pipeline."""
    if isinstance(sampling, UnclipSettings):
        return UnclipPipeline.open(
            run,
            prior=prior,
            device=device,
            precision=precision,
            sampling=sampling,
            seed=seed,
            checkpoint=checkpoint,
        )
    return DallePipeline.open(
        run,
        device=device,
        precision=precision,
        sampling=sampling,
        seed=seed,
        image=image,
        checkpoint=checkpoint,
    )
