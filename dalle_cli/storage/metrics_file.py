"""`metrics.jsonl`: a JSON line for each report of a run, with its step; written and read.

A line that a crash cut short is none. Where a run is resumed from an earlier step, the lines after
it are removed, and written again.
"""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path

from dalle_cli.errors import DalleError
from dalle_cli.storage.atomic import append_to_file, make_folder, write_file
from dalle_cli.storage.small_files import check_regular

STEP = "step"
SECONDS = "train/seconds"  # since the run began, over all its starts
HELD_OUT = "valid/"  # what the names of held-out figures begin with
Report = dict[str, float]


def append_report(path: Path, step: int, figures: Mapping[str, float]) -> None:
    """Append a line, making the folder if need be; JSON has no word for what is not finite."""
    known = {name: value if math.isfinite(value) else None for name, value in figures.items()}
    make_folder(path.parent)
    append_to_file(path, json.dumps({STEP: step, **known}) + "\n")


def read_reports(path: Path) -> list[Report]:
    """Read the numbers of every whole line, the step among them; none where there is no file."""
    try:
        lines = _lines(path)
    except OSError:
        return []
    return [report for line in lines if STEP in (report := _numbers_of(line))]


def cut_reports(path: Path, step: int) -> None:
    """Remove the lines after a step, and those that a crash cut short.

    Raises DalleError where something else than a file of lines is in its place.
    """
    if not path.exists():
        return
    try:
        lines = _lines(path)
    except OSError as error:
        raise DalleError(f"cannot read {path}: {error.strerror}", "move it away") from error
    kept = [line for line in lines if _numbers_of(line).get(STEP, math.inf) <= step]
    write_file(path, "".join(f"{line}\n" for line in kept))


def check_reports(path: Path) -> None:
    """Raise DalleError, with the first, if lines are no reports; the last may be cut short."""
    check_regular(path)
    text = path.read_text("utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1].splitlines()
    damaged = [number for number, line in enumerate(whole, 1) if STEP not in _numbers_of(line)]
    if damaged:
        message = f"{path} is damaged in {len(damaged):,} of its {len(whole):,} lines"
        raise DalleError(f"{message}, first in line {damaged[0]:,}")


def last_held_out(reports: list[Report], up_to: float = math.inf) -> tuple[int | None, Report]:
    """Return the step of the last held-out figures, up to a step, and the figures by short names.

    Returns None and no figures where nothing was measured.
    """
    for report in reversed(reports):
        figures = {
            name.removeprefix(HELD_OUT): value
            for name, value in report.items()
            if name.startswith(HELD_OUT)
        }
        if figures and report[STEP] <= up_to:
            return int(report[STEP]), figures
    return None, {}


def _lines(path: Path) -> list[str]:
    check_regular(path)
    return path.read_text("utf-8", errors="replace").splitlines()


def _numbers_of(line: str) -> Report:
    """Parse a line, which may be a stranger's; returns its finite numbers."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {name: value for name, value in values.items() if _is_figure(value)}


def _is_figure(value: object) -> bool:
    """Return whether a value is a finite number, and no integer beyond floats."""
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max
