"""Run the command line, and say how a failure ends."""

import os
import sys

from dalle_cli.cli import data, generating, importing, inspecting, training  # noqa: F401  they fill the application
from dalle_cli.cli.app import app
from dalle_cli.errors import DalleError, UsageError
from dalle_cli.runtime.ranks import Ranks, ranks_of_environment
from dalle_cli.untrusted import printable


def main() -> None:
    """Run the command line; what a user can cause ends in `error:` and `hint:` and an exit code, never a traceback."""
    try:
        _run()
    except SystemExit as ended:
        if _ranks().size == 1:
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(
            ended.code if isinstance(ended.code, int) else 0
        )  # gloo's threads now and then abort a normal exit


def _run() -> None:
    sys.argv = [
        word for word in sys.argv if not word.startswith("--local_rank=")
    ]  # DeepSpeed's launcher puts it there
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


def _ranks() -> Ranks:
    """Say which process this is; one alone where the environment makes no sense, which is told elsewhere."""
    try:
        return ranks_of_environment()
    except UsageError:
        return Ranks()


def _fail(error: DalleError) -> None:
    hint = f"\nhint: {error.hint}" if error.hint else ""
    ranks = _ranks()
    if not ranks.is_main and error.exit_code == 2:
        sys.exit(2)  # wrong usage is the same in all processes, and the first one tells
    speaker = "" if ranks.is_main else f"process {ranks.rank}: "
    for line in f"error: {error.message}{hint}".split("\n"):
        sys.stderr.write(f"{speaker}{printable(line)}\n")
    sys.exit(error.exit_code)
