"""The `dalle` application and its groups, which the other modules here fill with commands."""

from typing import Annotated

import typer

from dalle_cli import __version__
from dalle_cli.cli.help import DATA, TRAIN, HelpGroup, example_text

app = typer.Typer(
    name="dalle",
    cls=HelpGroup,
    help="Train and sample the original DALL-E: a discrete VAE, a sparse transformer, and CLIP.",
    epilog=example_text("dalle demo"),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add_group(name: str, *, summary: str, panel: str, example: str) -> typer.Typer:
    group = typer.Typer(cls=HelpGroup, help=summary, no_args_is_help=True)
    app.add_typer(group, name=name, rich_help_panel=panel, epilog=example_text(example))
    return group


data_app = _add_group(
    "data",
    summary="Render, check, compare and encode training data.",
    panel=DATA,
    example="dalle data check pictures/",
)
recipes_app = _add_group(
    "recipes",
    summary="List, show and check recipes.",
    panel=TRAIN,
    example="dalle recipes list",
)
import_app = _add_group(
    "import",
    summary="Make a run from other people's weights.",
    panel=DATA,
    example="dalle import dvae encoder.pkl decoder.pkl --run runs/openai-dvae",
)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"dalle {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Declare the options of `dalle` itself; its help text is the application's."""
