"""Previews of a run, and its samples with the best and the worst scores, for its page.

The run may be a stranger's, or still be written: what is damaged is passed over.
"""

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from dalle_cli.data.images import BadSample, decode_image
from dalle_cli.pages.report import Picture
from dalle_cli.storage.run_dir import MANIFEST, RunDir
from dalle_cli.storage.small_files import parse_json, read_file
from dalle_cli.viz import enlarge

MAX_SIDE = 900  # pixels of a preview
SCORED_SIDE = 192  # pixels that small ones are enlarged to, and large ones scaled down to


def preview_pictures(folder: RunDir, at_most: int) -> Iterator[Picture]:
    """Yield previews spread over the steps, the last one among them."""
    files = sorted(folder.preview(0).parent.glob("step-*.png"))
    n = min(len(files), at_most)
    for i in range(1, n + 1):
        file = files[round(i * len(files) / n) - 1]
        if (picture := _read(file)) is None:
            continue
        picture.thumbnail((MAX_SIDE, MAX_SIDE))
        step = file.stem.removeprefix("step-")
        yield encode_picture(picture, f"step {int(step):,}" if step.isdecimal() else step, "WEBP")


def scored_pictures(folder: RunDir, n: int) -> tuple[list[Picture], list[Picture]]:
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
        pictures.append(encode_picture(picture, words, "WEBP"))
    return pictures


def _read(file: Path) -> Image.Image | None:
    """Read a picture; None for what is none, or is damaged."""
    try:
        return decode_image(read_file(file))
    except (OSError, ValueError, BadSample):  # ValueError: a name with a zero byte
        return None


def encode_picture(picture: Image.Image, caption: str, form: str) -> Picture:
    """Encode a picture for a page, in a format by its name."""
    buffer = io.BytesIO()
    picture.save(buffer, format=form)
    return Picture(buffer.getvalue(), f"image/{form.lower()}", caption)
