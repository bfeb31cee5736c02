"""What the page of `dalle report` shows of a run, read from its files.

Every file may be missing: a run that has just begun has no metrics, an export no previews.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from dalle_cli.commands.evaluation.evaluation_table import evaluation_notes, evaluation_rows
from dalle_cli.commands.reports.story.run_facts import run_facts, run_table
from dalle_cli.commands.reports.story.run_pictures import (
    encode_picture,
    preview_pictures,
    scored_pictures,
)
from dalle_cli.commands.reports.story.story_text import story_rows
from dalle_cli.config import TrainedTransformerTable
from dalle_cli.evaluation.evaluation_folder import latest_evaluation
from dalle_cli.models.attention_masks import layer_kinds
from dalle_cli.pages.report import Picture, RunFacts
from dalle_cli.recipe import flat_tables
from dalle_cli.storage.metrics_file import read_reports
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.storage.small_files import load_json
from dalle_cli.viz import layer_pictures, mask_pictures

MAX_PREVIEWS = 12  # of a run, spread over its steps
N_SCORED = 8  # pictures with the best scores, and with the worst
N_WHOLE = 2  # runs on a page whose pictures are all shown; of more, fewer are


def run_page(run: Path, name: str, *, n_runs: int = 1) -> RunFacts:
    """Return what a page of so many runs shows of a run or an export.

    Raises DalleError where there is none.
    """
    folder, facts, table = RunDir(run), run_facts(run), run_table(run)
    record, share = _load_record(folder), min(N_WHOLE / n_runs, 1)
    best, worst = scored_pictures(folder, max(round(N_SCORED * share), 2))
    evaluation = latest_evaluation(run)

    masks: dict[str, Image.Image] = {}
    layers: list[Picture] = []
    if isinstance(table, TrainedTransformerTable):
        masks = mask_pictures(table.grid_size, table.kernel_size)
        kinds = layer_kinds(table.n_layers)
        drawn = layer_pictures(kinds, table.grid_size, table.kernel_size)
        layers = [
            encode_picture(picture, f"{number} {kind}", "PNG")
            for number, (kind, picture) in enumerate(zip(kinds, drawn, strict=True), 1)
        ]

    return RunFacts(
        name=name,
        kind=facts["kind"],
        rows=story_rows(facts),
        machine=_machine(record),
        reports=read_reports(folder.metrics),
        recipe=flat_tables(_table(record, "recipe")),
        shipped={key: shipped for key, (shipped, _) in facts["run"]["changes"].items()},
        previews=list(preview_pictures(folder, max(round(MAX_PREVIEWS * share), 2))),
        best=best,
        worst=worst,
        masks=[encode_picture(mask, kind, "PNG") for kind, mask in masks.items()],
        layers=layers,
        figures=dict(evaluation_rows(evaluation)) if evaluation else {},
        notes=evaluation_notes(evaluation) if evaluation else (),
    )


def _load_record(folder: RunDir) -> dict[str, Any]:
    """Load `recipe.json`; what is damaged has been told by the run's facts."""
    try:
        record = load_json(folder.recipe)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _table(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = record.get(name)
    return table if isinstance(table, dict) else {}


def _machine(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    versions = {f"{name} version": one for name, one in _table(record, "versions").items()}
    known = {**_table(record, "resolved"), **versions}
    return [(name, str(value)) for name, value in known.items() if value not in (None, "")]
