"""Runs other `dalle` commands, each printed before it runs, for commands that chain them."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dalle_cli.console import Terminal
from dalle_cli.errors import DalleError
from dalle_cli.runtime.signals import stop_signals_forwarded


def command_line(arguments: Sequence[Any]) -> str:
    """Return a `dalle` command as one would type it."""
    return f"$ dalle {shlex.join(map(str, arguments))}"


def option_words(options: Mapping[str, str | None]) -> list[str]:
    """Return options with their values as words, without those that have none."""
    return [word for name, value in options.items() if value for word in (name, value)]


def set_words(values: Sequence[str]) -> list[str]:
    """Return changes of a recipe's keys as words."""
    return [word for value in values for word in ("--set", value)]


def clear_unless_finished(folder: Path, last_file: str) -> bool:
    """Remove a folder that lacks its last file; return whether there is work to do."""
    if (folder / last_file).is_file():
        return False
    shutil.rmtree(folder, ignore_errors=True)
    return True


def run_subcommand(arguments: Sequence[Any], terminal: Terminal, *, hint: str) -> None:
    """Print and run a `dalle` command; its results are not shown.

    Raises DalleError with its exit code and the hint if it fails.
    """
    words = list(map(str, arguments))
    terminal.say(f"\n{command_line(words)}")
    quiet = ["--quiet"] if terminal.is_quiet else []
    command = [sys.executable, "-m", "dalle_cli", *words, *quiet]
    with stop_signals_forwarded(same_group=True) as forwarded_to:  # the child saves and exits
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        forwarded_to(child)
        code = child.wait()

    if code:
        name = " ".join(words[: 2 if words[0] == "data" else 1])
        code = code if code > 0 else 128 - code
        raise DalleError(f"`dalle {name}` did not finish", hint, exit_code=code)
