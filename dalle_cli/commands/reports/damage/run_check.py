"""Which parts of a run or an export are sound and which are damaged, for `doctor` and `info`.

A part is sound if it is as it was written, by the checksum that it carries or that a manifest
states, and can be read.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dalle_cli.commands.reports.damage.run_part import RunPart
from dalle_cli.commands.reports.damage.run_parts import checkpoint_parts, run_parts
from dalle_cli.commands.reports.model_text import Row, aligned_rows
from dalle_cli.errors import DalleError, printable
from dalle_cli.storage.run_dir import RunDir, model_dir


@dataclass(frozen=True)
class PartCheck:
    """What was found of a part.

    part     its path in the run
    state    "unchecked" if it has no checksum, as of 0.1.0, and is otherwise sound
    problem  what is wrong, "" if nothing is
    hint     what helps against it
    """

    part: str
    state: Literal["sound", "unchecked", "damaged"]
    problem: str = ""
    hint: str = ""


def check_run(run: RunDir, *, with_checkpoints: bool = True) -> list[PartCheck]:
    """Check all parts of a run, an export or a model folder, or all but the checkpoints.

    Raises UsageError if the folder is none of them.
    """
    if not (run.is_run or run.export.is_file() or run.model.is_dir()):
        model_dir(run.root)  # says what is wrong with the folder
    parts = list(run_parts(run))
    if with_checkpoints:
        parts += checkpoint_parts(run)

    checks = [_check(part, run.root) for part in parts]
    for part in (run.clip, run.prior):
        if part.is_dir():
            inside = check_run(RunDir(part))
            checks += [replace(check, part=f"{part.name}/{check.part}") for check in inside]
    return checks


def problems_of(checks: list[PartCheck]) -> list[str]:
    """Return what is wrong with each part that is damaged."""
    return [check.problem for check in checks if check.state == "damaged"]


def check_text(checks: list[PartCheck]) -> str:
    """Return a line for each part, and more for those that are damaged."""
    return aligned_rows(row for check in checks for row in _rows(check))


def raise_if_damaged(root: Path, problems: list[str], hint: str = "") -> None:
    """Raise DalleError with the first problem if there are any.

    hint  what to do; "" for the command that says what helps
    """
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        hint = hint or f"`dalle doctor {shlex.quote(str(root))}` says what helps"
        raise DalleError(f"{printable(str(root))} is damaged: {problems[0]}{more}", hint)


def _rows(check: PartCheck) -> Iterator[Row]:
    state = "sound, but it has no checksum" if check.state == "unchecked" else check.state
    yield printable(check.part), state
    for line in filter(None, (check.problem, check.hint)):
        yield "", line


def _check(part: RunPart, root: Path) -> PartCheck:
    name = str(part.path.relative_to(root))
    try:
        part.check()
        return PartCheck(name, "sound" if part.has_checksum() else "unchecked")
    except DalleError as error:
        return PartCheck(name, "damaged", error.message, part.hint)
    except OSError as error:
        problem = f"cannot read {printable(str(part.path))}: {error.strerror}"
        return PartCheck(name, "damaged", problem, part.hint)
