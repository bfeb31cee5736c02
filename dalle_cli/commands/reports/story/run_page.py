"""What the page of `dalle report` shows of a run, read from its files.

Every file may be missing: a run that has just begun has no metrics, an export no previews.
"""

import io
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from dalle_cli.commands.evaluation.evaluation_table import evaluation_notes, evaluation_rows
from dalle_cli.commands.reports.story.run_facts import run_facts, run_table
from dalle_cli.commands.reports.story.story_text import story_rows
from dalle_cli.config import TrainedTransformerTable
from dalle_cli.data.images import BadSample, decode_image
from dalle_cli.evaluation.evaluation_folder import latest_evaluation
from dalle_cli.models.attention_masks import layer_kinds
from dalle_cli.pages.report import Picture, RunFacts
from dalle_cli.recipe import flat_tables
from dalle_cli.storage.metrics_file import read_reports
from dalle_cli.storage.run_dir import MANIFEST, RunDir
from dalle_cli.storage.small_files import load_json, parse_json, read_file
from dalle_cli.viz import enlarge, layer_pictures, mask_pictures

MAX_PREVIEWS = 12  # of a run, spread over its steps
MAX_SIDE = 900  # pixels of a preview
N_SCORED = 8  # pictures with the best scores, and with the worst
SCORED_SIDE = 192  # pixels that small ones are enlarged to, and large ones scaled down to
N_WHOLE = 2  # runs on a page whose pictures are all shown; of more, fewer are


def run_page(run: Path, name: str, *, n_runs: int = 1) -> RunFacts:
    """Return what a page of so many runs shows of a run or an export.

    Raises DalleError where there is none.
    """
    folder, facts, table = RunDir(run), run_facts(run), run_table(run)
    record, share = _load_record(folder), min(N_WHOLE / n_runs, 1)
    best, worst = _scored_pictures(folder, max(round(N_SCORED * share), 2))
    evaluation = latest_evaluation(run)

    masks: dict[str, Image.Image] = {}
    layers: list[Picture] = []
    if isinstance(table, TrainedTransformerTable):
        masks = mask_pictures(table.grid_size, table.kernel_size)
        kinds = layer_kinds(table.n_layers)
        drawn = layer_pictures(kinds, table.grid_size, table.kernel_size)
        layers = [
            _encode(picture, f"{number} {kind}", "PNG")
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
        previews=list(_previews(folder, max(round(MAX_PREVIEWS * share), 2))),
        best=best,
        worst=worst,
        masks=[_encode(mask, kind, "PNG") for kind, mask in masks.items()],
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


def _previews(folder: RunDir, at_most: int) -> Iterator[Picture]:
    """Yield previews spread over the steps, the last one among them."""
    files = sorted(folder.preview(0).parent.glob("step-*.png"))
    n = min(len(files), at_most)
    for i in range(1, n + 1):
        file = files[round(i * len(files) / n) - 1]
        if (picture := _read(file)) is None:
            continue
        picture.thumbnail((MAX_SIDE, MAX_SIDE))
        step = file.stem.removeprefix("step-")
        yield _encode(picture, f"step {int(step):,}" if step.isdecimal() else step, "WEBP")


def _scored_pictures(folder: RunDir, n: int) -> tuple[list[Picture], list[Picture]]:
    """Return the best and the worst of the newest samples that a ranking has scored."""
    for manifest in sorted(folder.samples.glob(f"*/{MANIFEST}"), reverse=True):
        if records := _scored_records(manifest):
            is_lower_better = records[0].get("ranked_by") == "perplexity"
            records.sort(key=lambda one: one["score"], reverse=not is_lower_better)
            best, rest = records[:n], records[n:]
            return _shown(best, manifest.parent), _shown(rest[-n:], manifest.parent)
    return [], []


def _scored_records(manifest: Path) -> list[dict[str, Any]]:
    """Read the records that have a score, of a manifest that may be a stranger's or cut short."""
    try:
        lines = read_file(manifest).splitlines()
    except OSError:
        return []
    return [one for line in lines if (one := _scored_record(line)) is not None]


def _scored_record(line: bytes) -> dict[str, Any] | None:
    """Parse a record; None unless it has a score, and names a picture that lies beside it."""
    try:
        record = parse_json(line)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    score, file = record.get("score"), record.get("file")
    is_scored = isinstance(score, int | float) and abs(score) <= sys.float_info.max
    is_beside = isinstance(file, str) and file == os.path.basename(file)
    return record if is_scored and is_beside else None


def _shown(records: list[dict[str, Any]], folder: Path) -> list[Picture]:
    pictures = []
    for record in records:
        if (picture := _read(folder / record["file"])) is None:
            continue
        picture = enlarge(picture, SCORED_SIDE)
        picture.thumbnail((SCORED_SIDE, SCORED_SIDE))
        words = f"{record.get('caption', '')} ({record['score']:.3g})"
        pictures.append(_encode(picture, words, "WEBP"))
    return pictures


def _read(file: Path) -> Image.Image | None:
    """Read a picture; None for what is none, or is damaged."""
    try:
        return decode_image(read_file(file))
    except (OSError, ValueError, BadSample):  # ValueError: a name with a zero byte
        return None


def _encode(picture: Image.Image, caption: str, form: str) -> Picture:
    buffer = io.BytesIO()
    picture.save(buffer, format=form)
    return Picture(buffer.getvalue(), f"image/{form.lower()}", caption)
