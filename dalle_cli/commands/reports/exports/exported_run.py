"""What an export states about the run it was made from, without what belongs to one machine.

The record holds the recipe and a fingerprint of the data, and no paths. The held-out figures are
those of the exported step, or the last before it.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dalle_cli.errors import DalleError
from dalle_cli.storage.atomic import write_file
from dalle_cli.storage.checkpoint_folder import checkpoints
from dalle_cli.storage.integrity.checksums import checksummed_json, load_checksummed_json
from dalle_cli.storage.metrics_file import last_held_out, read_reports
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.storage.run_record import RECORD_SCHEMA

EXPORT_SCHEMA = 2  # 1, of 0.1.0, has no checksum
WHOLE_KEYS = ("schema", "recipe", "versions")
DATA_KEYS = ("fingerprint", "samples", "held_out", "excluded")
RESOLVED_KEYS = ("device", "precision", "processes", "engine")


@dataclass(frozen=True)
class ExportedRun:
    """What an export keeps of its run.

    step           of the exported weights; None if the run does not tell
    measured_at    step of the held-out figures; None if there are none
    held_out       figures by name, without the leading `valid/`
    record         the run's `recipe.json` without paths; None if it has none that can be read
    """

    step: int | None
    measured_at: int | None
    held_out: dict[str, float]
    record: dict[str, Any] | None

    def write(self, target: RunDir) -> list[Path]:
        """Write `export.json`, and `recipe.json` if there is a record; return their paths.

        `export.json` comes first: with it, the folder is not taken for a run.
        """
        facts = {"schema": EXPORT_SCHEMA, **asdict(self)}
        del facts["record"]
        write_file(target.export, checksummed_json(facts))
        if self.record is None:
            return [target.export]

        write_file(target.recipe, checksummed_json(self.record))
        return [target.export, target.recipe]


def describe_run(run: RunDir, step: int | None) -> ExportedRun:
    """Read what an export keeps of a run, or of another export.

    step  of the checkpoint that is exported; None: of the run's model, saved with the newest one

    Raises DalleError if an export's `export.json` is damaged; a record that is damaged is left out.
    """
    record = _read_record(run.recipe)
    if run.export.is_file():
        facts = read_export(run)
        return ExportedRun(
            step=facts.get("step"),
            measured_at=facts.get("measured_at"),
            held_out=facts.get("held_out", {}),
            record=record,
        )

    if step is None:
        saved = checkpoints(run)
        step = saved[-1][0] if saved else None
    up_to = math.inf if step is None else step
    measured_at, held_out = last_held_out(read_reports(run.metrics), up_to)
    return ExportedRun(step, measured_at, held_out, record)


def read_export(run: RunDir) -> dict[str, Any]:
    """Read `export.json`; raises DalleError if it is damaged."""
    try:
        return dict(load_checksummed_json(run.export, since=EXPORT_SCHEMA))
    except (OSError, ValueError, TypeError) as error:
        raise DalleError(f"{run.export} is damaged: {error}", "export the run again") from error


def _read_record(path: Path) -> dict[str, Any] | None:
    """Read what holds on any machine of a run's record; None if it is missing or damaged."""
    try:
        record = load_checksummed_json(path, since=RECORD_SCHEMA)
    except (OSError, ValueError, DalleError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("recipe"), dict):
        return None

    chosen = {"resolved": RESOLVED_KEYS, "data": DATA_KEYS}
    tables = {
        name: {key: table[key] for key in keys if key in table}
        for name, keys in chosen.items()
        if isinstance(table := record.get(name), dict)
    }
    whole = {key: value for key, value in record.items() if key in WHOLE_KEYS}
    return {**whole, **tables}
