"""The `dalle` application, which the modules beside this one fill with commands."""

from typing import Annotated

import typer

from dalle_cli import __version__

app = typer.Typer(
    name="dalle",
    help="Train and sample the original DALL-E: a discrete VAE, a sparse transformer, and what lies around them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Make and look at training data.", no_args_is_help=True)
import_app = typer.Typer(help="Make other people's weights into a run.", no_args_is_help=True)
recipes_app = typer.Typer(help="List, show and check recipes.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(recipes_app, name="recipes")
app.add_typer(import_app, name="import")


def _print_version(wanted: bool) -> None:
    if wanted:
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
    """Hold the options of the application itself; the help text is the Typer's."""
