"""`dalle demo-unclip`: all of DALL-E 2 on toy scenes."""

from pathlib import Path
from typing import Annotated

import typer

from dalle_cli.cli.app import app
from dalle_cli.cli.help import TRAIN, add_command
from dalle_cli.cli.options import INPUT, RECIPE, RUN, Json, Quiet
from dalle_cli.console import Terminal


@add_command(app, "demo-unclip", panel=TRAIN, example="dalle demo-unclip")
def demo_unclip(
    run: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for everything.", rich_help_panel=RUN)
    ] = Path("runs/demo-unclip"),
    pictures: Annotated[
        int,
        typer.Option(metavar="N", min=100, help="Scenes to train on.", rich_help_panel=INPUT),
    ] = 6000,
    *,
    clip_set: Annotated[
        list[str],
        typer.Option(metavar="KEY=VALUE", help="Change CLIP's recipe.", rich_help_panel=RECIPE),
    ] = [],  # noqa: B006  typer copies it
    prior_set: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=VALUE", help="Change the prior's recipe.", rich_help_panel=RECIPE
        ),
    ] = [],  # noqa: B006  typer copies it
    decoder_set: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=VALUE", help="Change the decoder's recipe.", rich_help_panel=RECIPE
        ),
    ] = [],  # noqa: B006  typer copies it
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train DALL-E 2 on toy scenes and measure it.

    Then generates, varies and blends pictures, and counts how many show their caption.
    """
    from dalle_cli.commands.unclip.demo_unclip import run_demo_unclip

    overrides = {"clip": clip_set, "prior": prior_set, "decoder": decoder_set}
    run_demo_unclip(run, pictures, overrides, Terminal(quiet=quiet, as_json=as_json))
