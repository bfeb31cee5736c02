"""`dalle import`: other people's weights, made into a run."""

from pathlib import Path
from typing import Annotated

import typer

from dalle_cli.cli.app import import_app
from dalle_cli.cli.options import Json, Quiet
from dalle_cli.console import Terminal


@import_app.command()
def dvae(
    encoder: Annotated[
        Path,
        typer.Argument(metavar="ENCODER", help="OpenAI's encoder.pkl, or FLAVA's image codebook."),
    ],
    run: Annotated[Path, typer.Option(metavar="DIR", help="The run's folder, a new one.")],
    decoder: Annotated[
        Path | None,
        typer.Argument(
            metavar="DECODER",
            help="OpenAI's decoder.pkl; without it, `dalle data encode` alone works.",
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make OpenAI's discrete VAE into a run: pickled modules, state dicts or safetensors, and nothing in them is run.

    Example: dalle import dvae encoder.pkl decoder.pkl --run runs/openai-dvae
    """
    from dalle_cli.commands.import_dvae import run_import_dvae

    run_import_dvae(encoder, decoder, run, Terminal(quiet, as_json))
