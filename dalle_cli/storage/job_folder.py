"""Folders that a command fills with the results of one job, and goes on with after an interruption.

`job.json` holds everything that the results depend on, so that two jobs are never mixed in one
folder and choices that were made once, such as the precision, are made again. Knows nothing of what
the results are.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dalle_cli.errors import DalleError, UsageError
from dalle_cli.storage.atomic import atomic_write
from dalle_cli.storage.run_dir import JOB

SCHEMA = 2
NEW_FOLDER = "name a new folder"


@dataclass(frozen=True)
class JobFolder:
    """An output folder and the job it was begun for.

    path      None where the command writes no folder, or has not chosen one yet
    recorded  the job's description, None where the folder is new or empty
    """

    path: Path | None
    recorded: Mapping[str, Any] | None

    @classmethod
    def open(cls, path: Path | None) -> "JobFolder":
        """Read what a folder was begun for, without changing anything.

        Raises UsageError where it holds something else, and DalleError where its description is
        damaged or comes from another version of this package.
        """
        is_new = path is None or not path.exists() or (path.is_dir() and not any(path.iterdir()))
        return cls(path, None if path is None or is_new else _read(path))

    def recall(self, key: str, default: Any) -> Any:
        """Return what the job was begun with, or the default where that is not known."""
        return default if self.recorded is None else self.recorded.get(key, default)

    def recall_choice(self, key: str, choice: str) -> str:
        """Return a choice; `auto` stands for what the job was begun with, if that is known."""
        return self.recall(key, choice) if choice == "auto" else choice

    def check(self, job: Mapping[str, Any], *, is_complete: bool = False) -> None:
        """Raise UsageError, naming what differs, where the folder was begun for another job.

        is_complete  whether the description has all keys; otherwise those that it lacks are not
                     compared
        """
        if self.recorded is None:
            return

        job = json.loads(json.dumps(job))  # tuples become lists, as they did in the file
        known = {key: value for key, value in self.recorded.items() if key != "schema"}
        compared = job.keys() | known.keys() if is_complete else job.keys()
        differing = sorted(key for key in compared if known.get(key) != job.get(key))

        if "command" in differing:
            writer = known.get("command")
            raise UsageError(f"{self.path} holds what `dalle {writer}` wrote", NEW_FOLDER)
        if differing:
            message = f"{self.path} belongs to another job, with other {', '.join(differing)}"
            raise UsageError(message, NEW_FOLDER)

    def begin(self, job: Mapping[str, Any]) -> Path:
        """Write the job's description, or check that it is the recorded one; return the folder's
        path.

        Raises UsageError, touching nothing, where the folder belongs to another job.
        """
        assert self.path is not None, "a job needs a folder"
        if self.recorded is not None:
            self.check(job, is_complete=True)
            return self.path

        self.path.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path / JOB) as temporary:
            temporary.write_text(json.dumps({"schema": SCHEMA, **job}, indent=1) + "\n")
        return self.path


def _read(path: Path) -> Mapping[str, Any]:
    """Read the description of the job that a folder, which is not empty, was begun for."""
    file = path / JOB
    if not file.is_file():
        raise UsageError(f"{path} already holds something", NEW_FOLDER)

    try:
        job = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DalleError(f"{file} is damaged: {error}", NEW_FOLDER) from error

    if not isinstance(job, dict):
        raise DalleError(f"{file} is damaged: it does not describe a job", NEW_FOLDER)
    if job.get("schema") != SCHEMA:
        found = job.get("schema", 1)
        message = f"{file} is of format {found}, this version of dalle reads format {SCHEMA}"
        raise DalleError(
            message, "finish the job with the version that began it, or name a new folder"
        )
    return job
