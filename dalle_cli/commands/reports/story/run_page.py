"""What the page of `dalle report` shows of a run, read from its files.

Every file may be missing: a run that has just begun has no metrics, an export no previews.
"""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from dalle_cli.commands.evaluation.evaluation_table import evaluation_notes, evaluation_rows
from dalle_cli.commands.reports.story.run_facts import run_facts, run_table
from dalle_cli.commands.reports.story.story_text import story_rows
from dalle_cli.config import TrainedTransformerTable
from dalle_cli.evaluation.evaluation_folder import latest_evaluation
from dalle_cli.models.attention_masks import layer_kinds
from dalle_cli.pages.report import Picture, RunFacts
from dalle_cli.recipe import flat_tables
from dalle_cli.storage.metrics_file import read_reports
from dalle_cli.storage.run_dir import MANIFEST, RunDir
from dalle_cli.storage.small_files import load_json, read_file
from dalle_cli.viz import mask_pictures

MAX_PREVIEWS = 12  # of a run, spread over its steps
MAX_SIDE = 900  # pixels of a preview
N_SCORED = 8  # pictures with the best scores, and with the worst


def run_page(run: Path, name: str) -> RunFacts:
    """Return what a page shows of a run or an export; raises DalleError where there is none."""
    folder, facts, table = RunDir(run), run_facts(run), run_table(run)
    record = load_json(folder.recipe) if folder.recipe.is_file() else {}
    best, worst = _scored_pictures(folder)
    evaluation = latest_evaluation(run)

    masks, layers = {}, []
    if isinstance(table, TrainedTransformerTable):
        masks = mask_pictures(table.grid_size, table.kernel_size)
        layers = layer_kinds(table.n_layers)

    return RunFacts(
        name=name,
        kind=facts["kind"],
        rows=story_rows(facts),
        machine=_machine(record),
        reports=read_reports(folder.metrics),
        recipe=flat_tables(record.get("recipe", {})),
        changed=frozenset(facts["run"]["changes"]),
        previews=list(_previews(folder)),
        best=best,
        worst=worst,
        masks=[_encode(mask, kind, "PNG") for kind, mask in masks.items()],
        layers=layers,
        figures=dict(evaluation_rows(evaluation)) if evaluation else {},
        notes=evaluation_notes(evaluation) if evaluation else (),
    )


def _machine(record: dict[str, Any]) -> list[tuple[str, str]]:
    versions = {f"{name} version": one for name, one in record.get("versions", {}).items()}
    known = {**record.get("resolved", {}), **versions}
    return [(name, str(value)) for name, value in known.items() if value is not None]


def _previews(folder: RunDir) -> Iterator[Picture]:
    """Yield previews spread over the steps, the last one among them."""
    files = sorted(folder.preview(0).parent.glob("step-*.png"))
    n = min(len(files), MAX_PREVIEWS)
    for i in range(1, n + 1):
        file = files[round(i * len(files) / n) - 1]
        with Image.open(file) as picture:
            picture.thumbnail((MAX_SIDE, MAX_SIDE))
            yield _encode(picture, f"step {int(file.stem.removeprefix('step-')):,}", "WEBP")


def _scored_pictures(folder: RunDir) -> tuple[list[Picture], list[Picture]]:
    """Return the best and the worst of the newest samples that a ranking has scored."""
    for manifest in sorted(folder.samples.glob(f"*/{MANIFEST}"), reverse=True):
        lines = read_file(manifest).decode("utf-8", "replace").splitlines()
        records = [one for one in map(json.loads, lines) if one.get("score") is not None]
        if records:
            is_lower_better = records[0]["ranked_by"] == "perplexity"
            records.sort(key=lambda one: one["score"], reverse=not is_lower_better)
            best, rest = records[:N_SCORED], records[N_SCORED:]
            return _read(best, manifest.parent), _read(rest[-N_SCORED:], manifest.parent)
    return [], []


def _read(records: list[dict[str, Any]], folder: Path) -> list[Picture]:
    pictures = []
    for record in records:
        with Image.open(folder / record["file"]) as picture:
            words = f"{record['caption']} ({record['score']:.3g})"
            pictures.append(_encode(picture.convert("RGB"), words, "WEBP"))
    return pictures


def _encode(picture: Image.Image, caption: str, form: str) -> Picture:
    buffer = io.BytesIO()
    picture.save(buffer, format=form)
    return Picture(buffer.getvalue(), f"image/{form.lower()}", caption)
