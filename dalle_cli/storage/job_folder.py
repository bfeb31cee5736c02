"""Folders that one command fills with the results of one job: begun, gone on with, and never mixed with another's.

A job is described by everything its results depend on. Knows nothing of what the results are.
"""

import json
from pathlib import Path
from typing import Any

from dalle_cli.errors import DalleError, UsageError
from dalle_cli.storage.atomic import atomic_write
from dalle_cli.storage.run_dir import JOB


def recorded_job(folder: Path) -> dict[str, Any] | None:
    """Read the description of the job that a folder was begun for; None for a folder that is new or empty.

    Raises UsageError where it holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if not (folder / JOB).is_file():
        raise UsageError(f"{folder} already holds something", "name a new folder")
    try:
        job = json.loads((folder / JOB).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DalleError(f"{folder / JOB} is damaged: {error}", "name a new folder") from error
    if not isinstance(job, dict):
        raise DalleError(
            f"{folder / JOB} is damaged: it does not describe a job", "name a new folder"
        )
    return job


def check_same(folder: Path, recorded: dict[str, Any], job: dict[str, Any]) -> None:
    """Raise UsageError, naming what differs, where a folder was begun for another job than one known in part."""
    differing = sorted(key for key in job if recorded.get(key) != job[key])
    if "command" in differing:
        raise UsageError(
            f"{folder} holds what `dalle {recorded.get('command')}` wrote", "name a new folder"
        )
    if differing:
        raise UsageError(
            f"{folder} belongs to another job, with other {', '.join(differing)}",
            "name a new folder",
        )


def begin_job(folder: Path, job: dict[str, Any]) -> None:
    """Make the folder ready for a job, or for going on with it; raises UsageError where it belongs to another."""
    recorded = recorded_job(folder)
    job = json.loads(json.dumps(job))
    if recorded is None:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / JOB) as beside:
            beside.write_text(json.dumps(job, indent=1) + "\n")
    else:
        check_same(folder, recorded, dict.fromkeys(recorded) | job)
