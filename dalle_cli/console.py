"""What people see while a command works: notes, warnings and progress on stderr, results on stdout.

Untrusted text (captions, file names) passes through as literal text, never as markup.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

SHOWN = {  # figures worth a place on the line of progress, and how to print them
    "train/loss": "loss {:.4f}",
    "train/loss_text": "text {:.3f}",
    "train/loss_image": "image {:.3f}",
    "train/kl_per_cell": "kl {:.2f}",
    "train/image_token_accuracy": "accuracy {:.1%}",
    "train/images_per_second": "{:.0f} images/s",
    "valid/loss": "held-out loss {:.4f}",
    "valid/psnr": "PSNR {:.2f} dB",
    "valid/codes_used": "codes in use {:.0f}",
    "valid/perplexity": "perplexity {:.1f}",
    "valid/nats_per_image_token": "image {:.3f} nats/token",
    "valid/image_token_accuracy": "accuracy {:.1%}",
}


class Terminal:
    """The two streams of a command."""

    def __init__(self, quiet: bool = False, as_json: bool = False) -> None:
        self._as_json = as_json
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.is_quiet = quiet

    def say(self, text: str) -> None:
        """Tell the user something; silent under --quiet."""
        if not self.is_quiet:
            self._console.print(Text(text))

    def warn(self, text: str) -> None:
        """Tell the user something that may need attention, quiet or not."""
        self._console.print(Text("warning: ", style="yellow").append(text, style="default"))

    def result(self, text: str, data: Any) -> None:
        """Put a result on stdout: text for people, or the same as data under --json."""
        sys.stdout.write((json.dumps(data) if self._as_json else text) + "\n")
        sys.stdout.flush()

    @contextmanager
    def progress(self, total: int, done: int, unit: str) -> Iterator["ProgressLine"]:
        """Show how far a piece of work has come: a bar on a terminal, plain lines elsewhere."""
        line = ProgressLine(self, self._console, total, unit, has_bar=self._console.is_terminal and not self.is_quiet)
        with line.shown(done):
            yield line


class ProgressLine:
    """One piece of work under way."""

    def __init__(self, terminal: Terminal, console: Console, total: int, unit: str, has_bar: bool) -> None:
        self._terminal = terminal
        self._total = total
        self._unit = unit
        self._done = 0
        columns = (
            TextColumn(unit),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
        )
        self._bar = Progress(*columns, console=console) if has_bar else None

    @contextmanager
    def shown(self, done: int) -> Iterator[None]:
        """Show the bar inside the `with`."""
        if self._bar is None:
            yield
        else:
            with self._bar:
                self._task = self._bar.add_task("", total=self._total, completed=done, figures="")
                yield

    def report(self, done: int, figures: dict[str, float]) -> None:
        """Show the figures of a report; held-out ones stay on the screen."""
        text = "  ".join(form.format(figures[name]) for name, form in SHOWN.items() if name in figures)
        is_lasting = any(name.startswith("valid/") for name in figures)
        if self._bar is None or is_lasting:
            self._terminal.say(f"{self._unit} {done}/{self._total}  {text}")
        if self._bar is not None and not is_lasting:
            self._bar.update(self._task, completed=done, figures=text)

    def advance(self) -> None:
        """Count one more, where there are no figures to show; plain lines come at every tenth of the work."""
        self._done += 1
        if self._bar is not None:
            self._bar.advance(self._task)
        elif self._done * 10 // self._total > (self._done - 1) * 10 // self._total:
            self._terminal.say(f"{self._unit} {self._done}/{self._total}")
