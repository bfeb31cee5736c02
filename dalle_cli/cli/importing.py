"""`dalle import`: runs made from other people's weights."""

from pathlib import Path
from typing import Annotated

import typer

from dalle_cli.cli.app import import_app
from dalle_cli.cli.help import add_command
from dalle_cli.cli.options import RUN, Json, Quiet
from dalle_cli.console import Terminal


@add_command(import_app, example="dalle import dvae encoder.pkl decoder.pkl --run runs/openai-dvae")
def dvae(
    encoder: Annotated[
        Path,
        typer.Argument(metavar="ENCODER", help="OpenAI's encoder.pkl, or FLAVA's image codebook."),
    ],
    run: Annotated[
        Path,
        typer.Option(metavar="DIR", help="New folder for the run.", rich_help_panel=RUN),
    ],
    *,
    decoder: Annotated[
        Path | None,
        typer.Argument(
            metavar="DECODER",
            help="OpenAI's decoder.pkl; without it, only `dalle data encode` works.",
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a run from OpenAI's discrete VAE.

    Reads pickled modules, state dicts or safetensors; nothing in them is executed.
    """
    from dalle_cli.commands.import_dvae import run_import_dvae

    run_import_dvae(encoder, decoder, run, Terminal(quiet=quiet, as_json=as_json))
