"""`dalle recipes`, `models`, `info`, `report` and `doctor`: recipes, models, runs, this machine."""

from pathlib import Path
from typing import Annotated

import typer

from dalle_cli.cli.app import app, recipes_app
from dalle_cli.cli.help import MACHINE, USE, add_command
from dalle_cli.cli.options import (
    INPUT,
    OUTPUT,
    Json,
    Overrides,
    Quiet,
    RecipeName,
    run_path,
)
from dalle_cli.console import Terminal
from dalle_cli.errors import UsageError
from dalle_cli.runtime.garbage import imports_uncollected
from dalle_cli.storage.shipped import resolve_run


@add_command(recipes_app, "list", example="dalle recipes list")
def list_recipes(as_json: Json = False, quiet: Quiet = False) -> None:
    """List the shipped recipes and what they are for."""
    from dalle_cli.commands.recipes import run_list_recipes

    run_list_recipes(Terminal(quiet=quiet, as_json=as_json))


@add_command(recipes_app, "show", example="dalle recipes show transformer/demo > mine.toml")
def show_recipe(recipe: RecipeName, as_json: Json = False, quiet: Quiet = False) -> None:
    """Print the file of a recipe."""
    from dalle_cli.commands.recipes import run_show_recipe

    run_show_recipe(recipe, Terminal(quiet=quiet, as_json=as_json))


@add_command(recipes_app, "check", example="dalle recipes check mine.toml --set training.steps=500")
def check_recipe(
    recipe: RecipeName,
    overrides: Overrides = [],  # noqa: B006  typer copies it
    *,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check a recipe and print it as resolved."""
    from dalle_cli.commands.recipes import run_check_recipe

    run_check_recipe(recipe, overrides, Terminal(quiet=quiet, as_json=as_json))


@add_command(recipes_app, "keys", example="dalle recipes keys transformer")
def list_recipe_keys(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="KIND", help="A kind of recipe, such as dvae; by default all."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List every key of a recipe.

    With its type, bounds, default and meaning.
    """
    from dalle_cli.commands.recipes import run_list_keys

    run_list_keys(kind, Terminal(quiet=quiet, as_json=as_json))


@add_command(app, panel=USE, example="dalle models")
def models(as_json: Json = False, quiet: Quiet = False) -> None:
    """List the models that come with dalle.

    What each draws, its size, data, licence and figures, and the command that tries it.
    """
    from dalle_cli.commands.models import run_list_models

    run_list_models(Terminal(quiet=quiet, as_json=as_json))


@add_command(app, panel=MACHINE, example="dalle info transformer/demo --masks masks/")
def info(
    name: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|RUN",
            parser=resolve_run,
            help="A recipe, the folder of a run, or a shipped model.",
        ),
    ],
    masks: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write the attention masks here, as pictures.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    *,
    data: Annotated[
        list[str],
        typer.Option(
            metavar="SRC",
            help="Data for which to forecast the time, memory and disk of a recipe's run.",
            rich_help_panel=INPUT,
        ),
    ] = [],  # noqa: B006  typer copies it
    overrides: Overrides = [],  # noqa: B006  typer copies it
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print a recipe's cost, or the story of a run.

    Of a recipe: parameters, attention, floating-point operations and memory, and with --data what a
    run would take. Of a run: its data, steps, time and held-out loss, and how its recipe differs
    from the shipped one.
    """
    with imports_uncollected():
        from dalle_cli.commands.info import run_info

    run_info(name, overrides, masks, data, Terminal(quiet=quiet, as_json=as_json))


@add_command(
    app, panel=MACHINE, example="dalle report runs/birds runs/birds-longer --out birds.html"
)
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            parser=run_path,
            help="Runs, exports or shipped models, or folders of runs such as a demo's.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="By default report.html in the run, or for several in the current folder.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    *,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a page about runs, one file to send.

    It has curves, those of several runs over one another, previews by step, the best and worst
    samples, recipes and how they differ, and a transformer's attention. It loads nothing from
    elsewhere, and works on a run that is still training.
    """
    from dalle_cli.commands.report import run_report

    run_report(runs, out, Terminal(quiet=quiet, as_json=as_json))


@add_command(app, panel=MACHINE, example="dalle doctor runs/dalle")
def doctor(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            parser=resolve_run,
            help="A run, an export or a shipped model to check instead.",
        ),
    ] = None,
    *,
    measured: Annotated[
        bool, typer.Option("--measure", help="Also measure matmul rates and memory bandwidth.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print what this machine has, lacks and can do.

    With RUN, check every file of it instead: checkpoints, model, dVAE, tokenizer and records. The
    exit code is 1 if anything is damaged.
    """
    from dalle_cli.commands.doctor import run_doctor, run_doctor_on_run

    terminal = Terminal(quiet=quiet, as_json=as_json)
    if run is None:
        run_doctor(terminal, measured=measured)
        return
    if measured:
        raise UsageError("`--measure` is of the machine: leave out RUN")
    run_doctor_on_run(Path(run), terminal)
