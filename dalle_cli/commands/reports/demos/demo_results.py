"""What a demo's models have learnt: figures and a grid of its pictures, for `dalle demo`.

A demo's folder holds `data`, the runs `dvae`, `transformer` and `clip`, and the pictures generated
for two lists of prompts: `seen` combinations, which occur in training, and `unseen` ones.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from dalle_cli.data.images import to_png
from dalle_cli.data.rendered.shapes import Recogniser
from dalle_cli.storage.atomic import write_file
from dalle_cli.storage.metrics_file import last_held_out, read_reports
from dalle_cli.storage.run_dir import GRID, MANIFEST, RunDir
from dalle_cli.viz import labelled_grid, side_by_side

SINGLE = 4  # samples of a prompt that are shown, not selected
CANDIDATES = 8  # of which CLIP selects one
TEMPERATURE = 0.5  # at 1, the paper's, unlikely tokens spoil more of the shapes
GRID_PROMPTS = 8  # of each kind
BEST = f"unseen_best_of_{CANDIDATES}"

Record = dict[str, Any]  # a line of a manifest


def demo_figures(folder: Path) -> dict[str, Any]:
    """Return the validation figures of the dVAE and the CLIP, and the caption accuracies."""
    seen, unseen = read_records(folder / "seen"), read_records(folder / "unseen")
    best = [record for record in unseen if record["rank"] == 1]
    accuracies = {
        "seen": _caption_accuracy(folder, "seen", seen),
        "unseen": _caption_accuracy(folder, "unseen", unseen),
        BEST: _caption_accuracy(folder, "unseen", best),
    }

    (_, dvae), (_, clip) = (
        last_held_out(read_reports(RunDir(folder / kind).metrics)) for kind in ("dvae", "clip")
    )
    return {
        "dvae_psnr": round(dvae["psnr"], 2),
        "codes_used": int(dvae["codes_used"]),
        "clip_text_recall_at_1": round(clip["text_recall_at_1"], 4),
        "temperature": TEMPERATURE,
        "caption_accuracy": {name: round(share, 4) for name, share in accuracies.items()},
    }


def read_records(folder: Path) -> list[Record]:
    """Read the manifest of a folder that `generate` wrote."""
    return [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]


def _caption_accuracy(folder: Path, name: str, records: list[Record]) -> float:
    pictures = (Image.open(folder / name / record["file"]).convert("RGB") for record in records)
    return caption_accuracy(folder, pictures, [record["caption"] for record in records])


def caption_accuracy(
    folder: Path, pictures: Iterable[Image.Image], captions: Iterable[str]
) -> float:
    """Return the share of pictures that show their caption, with every attribute right.

    folder  of a demo, whose `data` says which scenes there are
    """
    facts = json.loads((folder / "data" / "shapes.json").read_text())
    return Recogniser(facts["level"], facts["side"]).accuracy(pictures, captions)


def save_demo_grid(folder: Path) -> None:
    """Lay out single samples of a few prompts of each kind, and CLIP's best of the unseen ones."""
    seen, unseen = _shown_records(folder / "seen"), _shown_records(folder / "unseen")
    best = {
        caption: [record for record in records if record["rank"] == 1]
        for caption, records in unseen.items()
    }

    sheets = [
        _sheet(
            folder / name, [(f"{caption} ({name})", records[:SINGLE]) for caption, records in shown]
        )
        for name, shown in (("seen", seen.items()), ("unseen", unseen.items()))
    ]
    sheets.append(
        _sheet(folder / "unseen", [(f"best of {CANDIDATES}", records) for records in best.values()])
    )
    write_file(folder / GRID, to_png(side_by_side(sheets)))


def _shown_records(folder: Path) -> dict[str, list[Record]]:
    """Return the records of a few prompts, spread evenly over the list, in the order generated."""
    records = read_records(folder)
    captions = list(dict.fromkeys(record["caption"] for record in records))
    shown = captions[:: max(len(captions) // GRID_PROMPTS, 1)][:GRID_PROMPTS]
    return {
        caption: sorted(
            (record for record in records if record["caption"] == caption),
            key=lambda record: record["number"],
        )
        for caption in shown
    }


def _sheet(folder: Path, rows: list[tuple[str, list[Record]]]) -> Image.Image:
    opened = [
        (label, [Image.open(folder / record["file"]).convert("RGB") for record in records])
        for label, records in rows
    ]
    return labelled_grid(opened)
