"""`dalle recipes`, `dalle info` and `dalle doctor`: look before you train."""

from pathlib import Path
from typing import Annotated

import typer

from dalle_cli.cli.app import app, recipes_app
from dalle_cli.cli.options import Json, Overrides, Quiet, RecipeName
from dalle_cli.console import Terminal


@recipes_app.command("list")
def list_recipes(as_json: Json = False, quiet: Quiet = False) -> None:
    """Name the shipped recipes and what they are for.

    Example: dalle recipes list
    """
    from dalle_cli.commands.recipes import list_recipes as command

    command(Terminal(quiet, as_json))


@recipes_app.command("show")
def show_recipe(recipe: RecipeName, as_json: Json = False, quiet: Quiet = False) -> None:
    """Print a recipe's file.

    Example: dalle recipes show transformer/demo > mine.toml
    """
    from dalle_cli.commands.recipes import show_recipe as command

    command(recipe, Terminal(quiet, as_json))


@recipes_app.command("check")
def check_recipe(
    recipe: RecipeName,
    overrides: Overrides = [],  # noqa: B006
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check a recipe and print it as it would run.

    Example: dalle recipes check mine.toml --set training.steps=500
    """
    from dalle_cli.commands.recipes import check_recipe as command

    command(recipe, overrides, Terminal(quiet, as_json))


@app.command(rich_help_panel="Look")
def info(
    name: Annotated[str, typer.Argument(metavar="RECIPE|RUN", help="A recipe, or a run's folder.")],
    masks: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw the attention masks here.")
    ] = None,
    overrides: Overrides = [],  # noqa: B006
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print parameters, tokens, attention, operations and memory of a recipe or a run.

    Example: dalle info transformer/demo --masks masks/
    """
    from dalle_cli.commands.info import run_info

    run_info(name, overrides, masks, Terminal(quiet, as_json))


@app.command(rich_help_panel="Look")
def doctor(
    measured: Annotated[
        bool, typer.Option("--measure", help="Measure matrix rates and memory bandwidth.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print what this machine has, what is missing, and what it can do.

    Example: dalle doctor --measure
    """
    from dalle_cli.commands.doctor import run_doctor

    run_doctor(measured, Terminal(quiet, as_json))
