"""Entry point of the command line: runs it, and turns failures into messages and exit codes."""

import io
import os
import signal
import sys

# importing the other modules fills the application with their commands
from dalle_cli.cli import (  # noqa: F401
    data,
    generating,
    importing,
    inspecting,
    measuring,
    training,
    using,
)
from dalle_cli.cli.app import app
from dalle_cli.cli.unclip import demonstrating, manipulating  # noqa: F401
from dalle_cli.console import LossyStream
from dalle_cli.errors import DalleError, UsageError, printable
from dalle_cli.runtime.processes.ranks import Ranks, ranks_of_environment
from dalle_cli.runtime.signals import StopRequested, stop_line, stop_requests_raised


def main() -> None:
    """Run the command line.

    What a user can cause ends in `error:`, `hint:` and an exit code, never in a traceback. The code
    is the same if nobody reads stderr any more.
    """
    try:
        _run()
    except SystemExit as ended:
        LossyStream(sys.stderr).flush()
        if _ranks().size == 1:
            raise
        sys.stdout.flush()
        # gloo's threads now and then abort a normal exit
        os._exit(ended.code if isinstance(ended.code, int) else 0)


def _run() -> None:
    # DeepSpeed's launcher adds it
    sys.argv = [word for word in sys.argv if not word.startswith("--local_rank=")]

    if isinstance(sys.stdout, io.TextIOWrapper):  # results may hold any name or caption
        sys.stdout.reconfigure(errors="backslashreplace")

    try:
        with stop_requests_raised():
            app()
    except DalleError as error:
        _fail(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # of a path that the user named
        _fail(DalleError(f"{error.filename}: {error.strerror}" if error.filename else str(error)))
    except StopRequested as request:
        if _ranks().is_main:
            if request.number == signal.SIGINT and sys.stderr.isatty():
                _print("")  # the terminal has written ^C at the start of the line
            _print(stop_line(request.number))
        sys.exit(128 + request.number)


def _ranks() -> Ranks:
    """Return the ranks of this process, or those of a single one if the environment is invalid.

    Whoever needs the ranks reports an invalid environment.
    """
    try:
        return ranks_of_environment()
    except UsageError:
        return Ranks()


def _fail(error: DalleError) -> None:
    hint = f"\nhint: {error.hint}" if error.hint else ""
    ranks = _ranks()
    if not ranks.is_main and error.exit_code == 2:
        sys.exit(2)  # wrong usage is the same in all processes, and rank 0 reports it

    prefix = "" if ranks.is_main else f"process {ranks.rank}: "
    for line in f"error: {error.message}{hint}".split("\n"):
        _print(f"{prefix}{printable(line)}")
    sys.exit(error.exit_code)


def _print(line: str) -> None:
    LossyStream(sys.stderr).write(f"{line}\n")
