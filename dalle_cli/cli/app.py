"""The `dalle` application: its commands, and how a failure ends."""

import os
import sys
from typing import Annotated

import typer

from dalle_cli import __version__
from dalle_cli.errors import DalleError
from dalle_cli.untrusted import printable

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
recipes_app = typer.Typer(help="List, show and check recipes.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(recipes_app, name="recipes")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dalle {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Hold the options of the application itself; the help text is the Typer's."""


def main() -> None:
    """Run the command line; what a user can cause ends in `error:` and `hint:` and an exit code, never a traceback."""
    from dalle_cli.cli import data, generating, inspecting, training  # noqa: F401  they register their commands

    try:
        app()
    except DalleError as error:
        _fail(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a path of the user's that cannot be read or written
        _fail(DalleError(f"{error.filename}: {error.strerror}" if error.filename else str(error)))
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(130)


def _fail(error: DalleError) -> None:
    hint = f"\nhint: {error.hint}" if error.hint else ""
    for line in f"error: {error.message}{hint}".split("\n"):
        sys.stderr.write(printable(line) + "\n")
    sys.exit(error.exit_code)
