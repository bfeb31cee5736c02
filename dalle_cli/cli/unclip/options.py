"""Options for sampling from the models of DALL-E 2, each declared once with its help panel."""

from typing import Annotated

import typer

UNCLIP = "DALL-E 2"
MAX_GUIDANCE = 100  # so that no logits overflow
SAMPLERS = ("ancestral", "ddim")


def _check_sampler(name: str | None) -> str | None:
    if name is not None and name not in SAMPLERS:
        raise typer.BadParameter(f"must be {' or '.join(SAMPLERS)}: {name}")
    return name


PriorName = Annotated[
    str | None,
    typer.Option(
        "--prior",
        metavar="RUN|text|none",
        help="What guesses embeddings for a decoder: a `train-prior` run, the caption's own "
        "embedding, or nothing; by default the prior that an export brings.",
        rich_help_panel=UNCLIP,
    ),
]
DecoderSteps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        metavar="N",
        min=2,
        help="Steps of a decoder; by default 250, or all if it was trained with fewer.",
        rich_help_panel=UNCLIP,
    ),
]
SamplerName = Annotated[
    str | None,
    typer.Option(
        "--sampler",
        metavar="ancestral|ddim",
        callback=_check_sampler,
        help="Add noise at every step, as by default, or let the first noise alone decide.",
        rich_help_panel=UNCLIP,
    ),
]
PriorSteps = Annotated[
    int | None,
    typer.Option(
        "--prior-steps",
        metavar="N",
        min=2,
        help="Steps of a diffusion prior; by default 64, or all if it was trained with fewer.",
        rich_help_panel=UNCLIP,
    ),
]
PriorGuidance = Annotated[
    float | None,
    typer.Option(
        "--prior-guidance",
        metavar="X",
        min=0,
        max=MAX_GUIDANCE,
        help="Above 1: embeddings closer to the caption; by default 1, as published.",
        rich_help_panel=UNCLIP,
    ),
]
DecoderGuidance = Annotated[
    float | None,
    typer.Option(
        "--guidance",
        metavar="X",
        min=0,
        max=MAX_GUIDANCE,
        help="Above 1: closer to the embedding; by default 1, or what the model's author advises.",
        rich_help_panel=UNCLIP,
    ),
]
