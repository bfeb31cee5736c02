"""The progress of long work: a bar that moves on a terminal, a few plain lines in a pipe.

A line is never wider than the terminal. Knows nothing of the work itself.
"""

import time
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from dalle_cli.quantities import duration_text

# a report of training: losses first, then a task's own figures, then what all tasks have
LOSS_FORMATS = {
    "train/loss": "loss {:.4f}",
    "valid/loss": "held-out loss {:.4f}",
}
COMMON_FORMATS = {
    "train/loss_scale": "scale {:,.0f}",
    "grad_scale/min": "scales {:,.0f}",
    "grad_scale/max": "to {:,.0f}",
    "train/images_per_second": "{:,.0f} images/s",
    "train/tokens_per_second": "{:,.0f} tokens/s",
    "train/tflops_per_second": "{:.3g} TFLOP/s",
    "train/mfu": "MFU {:.0%}",
    "train/peak_memory_gib": "{:.1f} GiB",
}

GAP = "  "  # between the parts of a line
BAR_WIDTH = 24  # columns, at most
REFRESH_RATE = 4  # a second; the bar must cost a busy processor nothing
LINE_PAUSE = 10.0  # seconds between plain lines, at least


def make_bar(console: Console, unit: str) -> Progress:
    """Build a bar with its unit on the left; its task's `text` stands on the right."""
    columns = (
        TextColumn(unit),
        BarColumn(bar_width=_bar_width(console)),
        TextColumn("{task.fields[text]}", markup=False),
    )
    return Progress(*columns, console=console, refresh_per_second=REFRESH_RATE)


class ProgressLine:
    """The progress of some work, of which `done` of `total` units are done already."""

    def __init__(
        self,
        say: Callable[[str], None],
        bar: Progress | None,
        *,
        total: int,
        done: int,
        unit: str,
        width: int,
    ) -> None:
        """Show progress on a bar, if there is one, and by lines of at most `width` columns."""
        self._say = say
        self._bar = bar
        self._total = total
        self._unit = unit
        self._width = width

        self._done = done
        self._started = self._last_line = time.perf_counter()
        self._measured_from: tuple[float, int] | None = None  # a time, and what was done by then
        self._has_said_left = False
        self._rate = ""
        if bar is not None:
            self._task = bar.add_task("", total=total, completed=done, text=self._counted())

    def reach(self, done: int) -> None:
        """Show that `done` units are done; the time left is known from the second call on.

        It leaves out the first unit, which takes longer than the others.
        """
        self._count(done)
        left = self._time_left()
        if self._bar is None and left and not self._has_said_left:
            self._say(_fit([self._heading()], [], ending=[left], width=self._width))
            self._has_said_left = True

    def report(
        self, done: int, figures: Mapping[str, float], *, formats: Mapping[str, str]
    ) -> None:
        """Print the figures of a report: of held-out data all, of training those that fit.

        formats  of the figures that belong to the task, in the order in which they are shown
        """
        is_held_out = any(name.startswith("valid/") for name in figures)
        losses = _shown(figures, LOSS_FORMATS)
        others = _shown(figures, {**formats, **COMMON_FORMATS})
        if is_held_out:
            self._say(_wrap([self._heading(done), *losses, *others], self._width))
            return

        self._rate = "".join(_shown(figures, {"train/images_per_second": "{:,.0f} images/s"}))
        self._count(done)
        left = self._time_left()
        self._has_said_left |= bool(left)
        ending = [left] if left else []
        self._say(_fit([self._heading(), *losses], others, ending=ending, width=self._width))

    def advance(self) -> None:
        """Count one more unit; plain lines come at tenths of the work, and not all at once."""
        if self._measured_from is None:
            self._measured_from = self._started, self._done
        self._count(self._done + 1)
        if self._bar is not None:
            return

        is_tenth = self._done * 10 // self._total > (self._done - 1) * 10 // self._total
        is_due = is_tenth and time.perf_counter() - self._last_line >= LINE_PAUSE
        if is_due or self._done == self._total:
            self._last_line = time.perf_counter()
            self._say(GAP.join([self._heading(), self._time_left() or self._time_taken()]))

    def _count(self, done: int) -> None:
        self._done = done
        if self._measured_from is None:
            self._measured_from = time.perf_counter(), done
        if self._bar is not None:
            self._bar.update(self._task, completed=done, text=self._bar_text(self._bar))

    def _bar_text(self, bar: Progress) -> str:
        """Return what stands to the right of the bar: as much as fits."""
        is_done = self._done >= self._total
        timing = self._time_taken() if is_done else self._time_left().removeprefix("about ")
        width = bar.console.width - len(self._unit) - _bar_width(bar.console) - 2
        return _fit([self._counted()], [part for part in (timing, self._rate) if part], width=width)

    def _counted(self) -> str:
        return f"{self._done:,}/{self._total:,}"

    def _heading(self, done: int | None = None) -> str:
        return f"{self._unit} {self._done if done is None else done:,}/{self._total:,}"

    def _time_left(self) -> str:
        """Return the time left at the pace so far, pauses included; "" where it is not known."""
        if self._measured_from is None or self._done >= self._total:
            return ""
        since, first = self._measured_from
        if self._done <= first:
            return ""
        pace = (time.perf_counter() - since) / (self._done - first)
        return f"about {duration_text(pace * (self._total - self._done))} left"

    def _time_taken(self) -> str:
        return f"in {duration_text(time.perf_counter() - self._started)}"


def advance_for_all(advance: Callable[[], None], *, n_ours: int, n_all: int) -> Callable[[], None]:
    """Return a function that advances the progress of all processes, called for each unit here.

    The other processes are assumed to be as far as this one: its last unit completes the count.

    advance  counts a unit
    n_ours   units of this process
    n_all    units of all processes
    """
    n_done = 0

    def advance_all() -> None:
        nonlocal n_done
        n_done += 1
        for _ in range(n_done * n_all // n_ours - (n_done - 1) * n_all // n_ours):
            advance()

    return advance_all


def _bar_width(console: Console) -> int:
    return max(min(BAR_WIDTH, console.width // 4), 1)


def _shown(figures: Mapping[str, float], formats: Mapping[str, str]) -> list[str]:
    return [form.format(figures[name]) for name, form in formats.items() if name in figures]


def _fit(
    needed: list[str], others: list[str], *, width: int, ending: list[str] | None = None
) -> str:
    """Join parts to a line: those needed, as many of the others as fit, and the ending."""
    last = ending or []
    kept: list[str] = []
    for part in others:
        if len(GAP.join([*needed, *kept, part, *last])) > width:
            break
        kept.append(part)
    return GAP.join([*needed, *kept, *last])


def _wrap(parts: list[str], width: int) -> str:
    """Join parts to lines that break between them only; lines after the first are indented."""
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(GAP) + len(part) <= width:
            lines[-1] += GAP + part
        else:
            lines.append(GAP + part)
    return "\n".join(lines)
