"""Output folders of jobs that can be resumed after an interruption.

`job.json` describes everything that a job's results depend on, so that two jobs are never mixed in
one folder, and choices made at the start, such as the precision, are made again. A stopwatch adds
up the time of all starts. Knows nothing of what the results are.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dalle_cli.errors import DalleError, UsageError, printable
from dalle_cli.storage.atomic import exclusive_lock, make_folder, write_file
from dalle_cli.storage.run_dir import JOB, is_vacant
from dalle_cli.storage.small_files import load_json

JOB_SCHEMA = 2
NEW_FOLDER = "name a new folder"
VALUE_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class JobFolder:
    """An output folder and the job it was started for.

    path      None if the command writes no folder, or has not chosen one yet
    recorded  the job's description; None if the folder is new or empty
    """

    path: Path | None
    recorded: Mapping[str, Any] | None

    @classmethod
    def open(cls, path: Path | None) -> "JobFolder":
        """Read the job that a folder was started for, without changing anything.

        Raises UsageError if the folder holds something else, and DalleError if the description is
        damaged or was written by another version of this package.
        """
        is_new = path is None or (not path.is_file() and is_vacant(path, JOB))
        return cls(path, None if path is None or is_new else _read(path))

    def recall(self, key: str, default: Any) -> Any:
        """Return the value recorded for a key, or the default if there is none."""
        return default if self.recorded is None else self.recorded.get(key, default)

    def recall_choice(self, key: str, choice: str) -> str:
        """Return the choice, or, if it is `auto`, the value that was recorded for it."""
        return self.recall(key, choice) if choice == "auto" else choice

    def check(self, job: Mapping[str, Any], *, is_complete: bool = False) -> None:
        """Raise UsageError, with the values that differ, if the folder was started for another job.

        is_complete  whether the description has all its keys; if not, missing keys are not compared
        """
        if self.recorded is None:
            return

        job = json.loads(json.dumps(job))  # tuples become lists, as in the file
        known = {key: value for key, value in self.recorded.items() if key != "schema"}
        compared = job.keys() | known.keys() if is_complete else job.keys()
        differing = sorted(key for key in compared if known.get(key) != job.get(key))

        if "command" in differing:
            writer = known.get("command", "generate")
            raise UsageError(f"{self.path} holds what `dalle {writer}` wrote", NEW_FOLDER)
        if differing:
            message = f"{self.path} belongs to another job, with other {', '.join(differing)}"
            lines = [_difference(key, known.get(key), job.get(key)) for key in differing]
            raise UsageError("\n".join([message, *lines]), NEW_FOLDER)

    @contextmanager
    def writing(self, job: Mapping[str, Any]) -> Iterator[Path]:
        """Yield the folder, locked, with the job's description in it, for the duration of a `with`.

        It is written, or checked against the recorded one: the folder is read again, since another
        command may have started a job in it meanwhile. Raises UsageError, without touching
        anything, if the folder belongs to another job, and DalleError if another command holds it.
        """
        assert self.path is not None, "a job needs a folder"
        make_folder(self.path)
        with exclusive_lock(self.path):
            current = JobFolder.open(self.path)
            if current.recorded is None:
                text = json.dumps({"schema": JOB_SCHEMA, **job}, indent=1)
                write_file(self.path / JOB, f"{text}\n")
            else:
                current.check(job, is_complete=True)
            yield self.path


def _difference(key: str, then: Any, now: Any) -> str:
    """Describe two values of a key; of two lists, the first entries that differ."""
    if isinstance(then, list) and isinstance(now, list):
        if len(then) != len(now):
            return f"  {key}: {len(then):,} of them then, {len(now):,} now"
        then, now = next(pair for pair in zip(then, now, strict=True) if pair[0] != pair[1])
    return f"  {key}: {_shown(then)} then, {_shown(now)} now"


def _shown(value: Any) -> str:
    text = "none" if value is None else printable(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= VALUE_SHOWN else f"{text[:VALUE_SHOWN]}…"


def _read(path: Path) -> Mapping[str, Any]:
    """Read the job description of a folder that is not empty."""
    file = path / JOB
    if not file.is_file():
        raise UsageError(f"{path} already holds something", NEW_FOLDER)

    try:
        job = load_json(file)
    except (OSError, ValueError) as error:
        raise DalleError(f"{file} is damaged: {error}", NEW_FOLDER) from error

    if not isinstance(job, dict):
        raise DalleError(f"{file} is damaged: it does not describe a job", NEW_FOLDER)
    if job.get("schema") != JOB_SCHEMA:
        found = job.get("schema", 1)
        message = (
            f"{file} is of format {found}, but this version of dalle reads format {JOB_SCHEMA}"
        )
        hint = "finish the job with the version that started it, or name a new folder"
        raise DalleError(message, hint)
    return job


@contextmanager
def stopwatch(file: Path) -> Iterator[Callable[[], float]]:
    """Yield a function that returns the seconds so far; they are kept however the `with` ends.

    If it ends in an exception, a failure to keep them must not hide that one.
    """
    before, started = _read_seconds(file), time.perf_counter()

    def seconds() -> float:
        return before + time.perf_counter() - started

    def keep() -> None:
        write_file(file, json.dumps({"seconds": seconds()}) + "\n")

    try:
        yield seconds
    except BaseException:
        with suppress(DalleError):
            keep()
        raise
    keep()


def _read_seconds(file: Path) -> float:
    try:
        return float(load_json(file)["seconds"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return 0.0
