"""The folder of an evaluation, and `evaluation.json`, written and read.

    job.json          what the figures depend on
    samples/          a picture of each caption: the job of `generate`
    repeats/          several pictures of some captions, another job
    parts/NAME.json   figures that are measured, each part by itself: they are not measured again
    nearest-*.png     the most copied pictures beside their originals
    evaluation.json   protocol, figures and warnings

By default it is a numbered folder in the run: the one that was begun for the same evaluation, if
there is one, so that the same command resumes it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from dalle_cli.errors import DalleError
from dalle_cli.generation.output_folder import create_numbered_folder
from dalle_cli.storage.atomic import make_folder, write_file
from dalle_cli.storage.integrity.checksums import checksummed_json, load_checksummed_json
from dalle_cli.storage.job_folder import JobFolder
from dalle_cli.storage.run_dir import EVALUATION, RunDir
from dalle_cli.storage.shipped import shipped_name
from dalle_cli.storage.small_files import load_json

EVALUATION_SCHEMA = 1
SAMPLES, REPEATS, PARTS = "samples", "repeats", "parts"


class Evaluation(BaseModel):
    """The content of `evaluation.json`.

    protocol  everything that the figures depend on, by part
    figures   by slash paths
    """

    model_config = ConfigDict(frozen=True)

    run: str
    kind: str
    protocol: dict[str, Any]
    figures: dict[str, FiniteFloat]
    warnings: list[str]


@dataclass(frozen=True)
class Part:
    """Figures that are measured together, how, and what to know before they are believed."""

    figures: dict[str, float] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class EvaluationFolder:
    """The folder of one run's evaluation."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.samples = path / SAMPLES
        self.repeats = path / REPEATS

    def measured(self, name: str, key: Mapping[str, Any], measure: Callable[[], Part]) -> Part:
        """Return a part, read if it was measured before, else measured now and kept.

        key  what the part depends on beyond the folder's job: another key is another part
        """
        file = self.path / PARTS / f"{name}.json"
        stated = json.loads(json.dumps(key))
        try:
            kept = load_json(file)
            if kept["key"] == stated:
                return Part(kept["figures"], kept["protocol"], kept["warnings"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # it is not there, or not what was written

        part = measure()
        make_folder(file.parent)
        content = {
            "key": stated,
            "figures": part.figures,
            "protocol": part.protocol,
            "warnings": part.warnings,
        }
        write_file(file, json.dumps(content, indent=1) + "\n")
        return part

    def write(self, evaluation: Evaluation) -> None:
        """Write `evaluation.json`."""
        content = {"schema": EVALUATION_SCHEMA, **evaluation.model_dump()}
        write_file(self.path / EVALUATION, checksummed_json(content))


def read_evaluation(file: Path) -> Evaluation:
    """Read `evaluation.json`; raises DalleError if it is damaged, OSError if it can't be read."""
    try:
        return Evaluation.model_validate(load_checksummed_json(file, since=EVALUATION_SCHEMA))
    except ValidationError as error:
        raise DalleError(f"{file} is damaged: {error.errors()[0]['msg']}") from error
    except (ValueError, OverflowError) as error:
        raise DalleError(f"{file} is damaged: {error}") from error


def find_evaluation_folder(run: Path, job: Mapping[str, Any]) -> Path:
    """Return the numbered folder that was begun for an evaluation, or create the next one.

    They are in the run, or below `evaluations/NAME` in the current folder for a shipped model.
    """
    parent = _evaluations(run)
    for path in _numbered(parent):
        try:
            JobFolder.open(path).check(job, is_complete=True)
        except DalleError:
            continue
        return path
    return create_numbered_folder(parent)


def latest_evaluation(run: Path) -> Evaluation | None:
    """Return the newest evaluation of a run that is finished and can be read, if there is one."""
    for path in _numbered(_evaluations(run)):
        try:
            return read_evaluation(path / EVALUATION)
        except (OSError, DalleError):
            continue
    return None


def _evaluations(run: Path) -> Path:
    name = shipped_name(run)
    return RunDir(run).evaluations if name is None else Path("evaluations", name)


def _numbered(parent: Path) -> list[Path]:
    """Return the numbered folders, the newest first."""
    if not parent.is_dir():
        return []
    named = [path for path in parent.iterdir() if path.name.isdecimal()]
    return sorted(named, key=lambda path: int(path.name), reverse=True)
