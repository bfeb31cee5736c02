"""A command's output: notes, warnings and progress on stderr, results on stdout.

Untrusted text (captions, file names) passes through as literal text, never as markup. What can't be
printed on stderr is lost, and never ends the work: whoever read it may have gone.
"""

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import IO, Any, cast

from rich.console import Console
from rich.text import Text

from dalle_cli.console.progress import ProgressLine, make_bar
from dalle_cli.runtime.processes.ranks import ranks_of_environment

MOST_PROBLEMS_SHOWN = 10


class LossyStream:
    """A text stream whose failures are lost, as a terminal's that has been closed.

    After the first, everything that is written to its file descriptor goes nowhere.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text, if that is still possible."""
        try:
            self._stream.write(text)
        except (OSError, ValueError):
            self._give_up()
        return len(text)

    def flush(self) -> None:
        """Flush what was written, if that is still possible."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def _give_up(self) -> None:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Terminal:
    """The two output streams of a command; of several processes, only the main one prints."""

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self._as_json = as_json
        self._is_silent = not ranks_of_environment().is_main
        stderr = cast(IO[str], LossyStream(sys.stderr))  # what it lacks, it has of the stream
        self._console = Console(file=stderr, highlight=False, soft_wrap=True, quiet=self._is_silent)
        self.is_quiet = quiet

    def say(self, text: str) -> None:
        """Print a note; silent under --quiet."""
        if not self.is_quiet:
            self._print(Text(text))

    def suggest(self, words: list[str]) -> None:
        """Print the command that comes next, ready to be copied.

        A terminal breaks it before options only.
        """
        options = re.split(" (?=--[a-z])", shlex.join(words))
        lines = [f"next: dalle {options[0]}"]
        for option in options[1:]:
            fits = len(f"{lines[-1]} {option} \\") <= self._console.width
            if fits or not self._console.is_terminal:
                lines[-1] += f" {option}"
            else:
                lines[-1] += " \\"
                lines.append(f"    {option}")
        if not self.is_quiet:
            self._console.print(Text("\n".join(lines)), soft_wrap=True)

    @property
    def picture_columns(self) -> int:
        """The number of columns for previews of pictures.

        It is 0 if stderr is not a terminal or has no colours, and under --quiet.
        """
        console = self._console
        is_able = console.is_terminal and console.color_system is not None and not console.no_color
        return console.width if is_able and not self.is_quiet else 0

    def show(self, picture: Text) -> None:
        """Print a picture that is made of characters."""
        self._console.print(picture)

    def warn(self, text: str) -> None:
        """Print a warning, even under --quiet."""
        self._print(Text("warning: ", style="yellow").append(text, style="default"))

    def _print(self, text: Text) -> None:
        """Print lines that a terminal breaks between words, unless they are a command to copy."""
        is_command = text.plain.lstrip().startswith("$ ")
        self._console.print(text, soft_wrap=is_command or not self._console.is_terminal)

    def warn_about(self, problems: list[tuple[str, str]]) -> None:
        """Warn about the first problems of a data set, (where, reason) each, and count the rest."""
        for where, reason in problems[:MOST_PROBLEMS_SHOWN]:
            self.warn(f"{where}: {reason}")
        if len(problems) > MOST_PROBLEMS_SHOWN:
            n_more = len(problems) - MOST_PROBLEMS_SHOWN
            self.warn(f"and {n_more} more; `dalle data check --json` lists all")

    def result(self, text: str, facts: Any) -> None:
        """Write a result to stdout: the text, or under --json the same facts as JSON."""
        if self._is_silent:
            return
        sys.stdout.write((json.dumps(facts) if self._as_json else text) + "\n")
        sys.stdout.flush()

    @contextmanager
    def progress(self, total: int, done: int, unit: str) -> Iterator[ProgressLine]:
        """Show the progress of some work: with a bar on a terminal, else with plain lines."""
        console = self._console
        can_redraw = console.is_terminal and not console.is_dumb_terminal
        is_shown = can_redraw and not self.is_quiet and not self._is_silent
        bar = make_bar(console, unit) if is_shown else None
        with bar or nullcontext():
            yield ProgressLine(
                self.say, bar, total=total, done=done, unit=unit, width=console.width
            )
