"""A command's output: notes, warnings and progress on stderr, results on stdout.

Untrusted text (captions, file names) passes through as literal text, never as markup.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from dalle_cli.runtime.ranks import ranks_of_environment

# the progress line of training: losses first, then a task's own figures, then what all tasks have
LOSS_FORMATS = {
    "train/loss": "loss {:.4f}",
    "valid/loss": "held-out loss {:.4f}",
}
COMMON_FORMATS = {
    "train/loss_scale": "scale {:.0f}",
    "grad_scale/min": "scales {:.0f}",
    "grad_scale/max": "to {:.0f}",
    "train/images_per_second": "{:.0f} images/s",
    "train/tokens_per_second": "{:,.0f} tokens/s",
    "train/tflops_per_second": "{:.3g} TFLOP/s",
    "train/mfu": "MFU {:.0%}",
    "train/peak_memory_gib": "{:.1f} GiB",
}

MOST_PROBLEMS_SHOWN = 10


class Terminal:
    """The two output streams of a command; of several processes, only the main one prints."""

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self._as_json = as_json
        self._is_silent = not ranks_of_environment().is_main
        self._console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=self._is_silent)
        self.is_quiet = quiet

    def say(self, text: str) -> None:
        """Print a note; silent under --quiet."""
        if not self.is_quiet:
            self._console.print(Text(text))

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
        self._console.print(Text("warning: ", style="yellow").append(text, style="default"))

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
    def progress(self, total: int, done: int, unit: str) -> Iterator["ProgressLine"]:
        """Show the progress of some work: with a bar on a terminal, else with plain lines."""
        has_bar = self._console.is_terminal and not self.is_quiet
        bar = _bar(self._console, unit) if has_bar else None
        with bar or nullcontext():
            yield ProgressLine(self, bar, total=total, done=done, unit=unit)


def _bar(console: Console, unit: str) -> Progress:
    figures = TextColumn("{task.fields[figures]}", markup=False)
    columns = (
        TextColumn(unit),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        figures,
    )
    return Progress(*columns, console=console)


class ProgressLine:
    """The progress of some work, of which `done` of `total` units are done already."""

    def __init__(
        self, terminal: Terminal, bar: Progress | None, *, total: int, done: int, unit: str
    ) -> None:
        self._terminal = terminal
        self._bar = bar
        self._total = total
        self._unit = unit

        self._done = self._first = done
        self._started = time.perf_counter()
        if bar is not None:
            self._task = bar.add_task("", total=total, completed=done, figures="")

    def report(
        self, done: int, figures: Mapping[str, float], *, formats: Mapping[str, str]
    ) -> None:
        """Show the figures of a report; those of held-out data stay on the screen.

        formats  of the figures that belong to the task, in the order in which they are shown
        """
        all_formats = {**LOSS_FORMATS, **formats, **COMMON_FORMATS}
        text = "  ".join(
            form.format(figures[name]) for name, form in all_formats.items() if name in figures
        )

        is_lasting = any(name.startswith("valid/") for name in figures)
        if self._bar is None or is_lasting:
            left = "" if is_lasting else f"  {self._time_left(done)} left"
            self._terminal.say(f"{self._unit} {done}/{self._total}  {text}{left}")
        if self._bar is not None and not is_lasting:
            self._bar.update(self._task, completed=done, figures=text)

    def _rate(self) -> str:
        """Format how many units were done a second so far."""
        rate = (self._done - self._first) / max(time.perf_counter() - self._started, 1e-9)
        return f"{rate:,.0f} {self._unit}s/s" if rate >= 10 else f"{rate:.2g} {self._unit}s/s"

    def _time_left(self, done: int) -> timedelta:
        """Estimate the time left from the pace so far, validation and saving included."""
        pace = (time.perf_counter() - self._started) / max(done - self._first, 1)
        return timedelta(seconds=round(pace * (self._total - done)))

    def advance(self) -> None:
        """Count one more unit and show the rate; plain lines come at every tenth of the work."""
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._task, advance=1, figures=self._rate())
        elif self._done * 10 // self._total > (self._done - 1) * 10 // self._total:
            self._terminal.say(f"{self._unit} {self._done}/{self._total}  {self._rate()}")
