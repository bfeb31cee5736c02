"""What an export states about the run it was made from, without what belongs to one machine.

The record holds the recipe and a fingerprint of the data, and no paths. The held-out figures are
those of the exported step, or the last before it.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dalle_cli.storage.checkpoint_folder import checkpoints
from dalle_cli.storage.metrics_file import last_held_out, read_reports
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.storage.small_files import load_json

EXPORT_SCHEMA = 1
WHOLE_KEYS = ("schema", "recipe", "versions")
DATA_KEYS = ("fingerprint", "samples", "held_out")
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
        target.root.mkdir(parents=True, exist_ok=True)
        target.export.write_text(json.dumps(facts, indent=1) + "\n")
        if self.record is None:
            return [target.export]

        target.recipe.write_text(json.dumps(self.record, indent=1) + "\n")
        return [target.export, target.recipe]


def describe_run(run: RunDir, step: int | None) -> ExportedRun:
    """Read what an export keeps of a run, or of another export.

    step  of the checkpoint that is exported; None: of the run's model, saved with the newest one
    """
    record = _portable_record(_read_json(run.recipe))
    if run.export.is_file():
        facts = _read_json(run.export)
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


def _portable_record(record: dict[str, Any]) -> dict[str, Any] | None:
    """Return a run's record with only what holds on any machine."""
    if not isinstance(record.get("recipe"), dict):
        return None
    chosen = {"resolved": RESOLVED_KEYS, "data": DATA_KEYS}
    tables = {
        name: {key: table[key] for key in keys if key in table}
        for name, keys in chosen.items()
        if isinstance(table := record.get(name), dict)
    }
    whole = {key: value for key, value in record.items() if key in WHOLE_KEYS}
    return {**whole, **tables}


def _read_json(path: Path) -> dict[str, Any]:
    """Read an object, or an empty one from a file that is missing or damaged."""
    try:
        content = load_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
