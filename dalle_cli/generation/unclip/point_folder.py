"""The folder of pictures painted of points: a file for each, a manifest, and a grid of the rows.

A row of the grid shows the pictures that its points come from, and those that were painted.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from dalle_cli.data.images import to_png
from dalle_cli.generation.unclip.latent_points import LatentPoint
from dalle_cli.storage.atomic import write_file
from dalle_cli.storage.run_dir import GRID, MANIFEST
from dalle_cli.viz import GRID_PICTURES, Row, captioned_rows, labelled_grid


def write_points(
    folder: Path,
    points: Sequence[LatentPoint],
    pictures: Iterator[Image.Image],
    *,
    rows: Sequence[Row],
    record: Mapping[str, Any],
    advance: Callable[[], None],
) -> list[str]:
    """Write pictures of points, `manifest.jsonl` and `grid.png`; return the pictures' names.

    rows     for each row its label, and the pictures that come before the painted ones
    record   what a manifest says of all points, after what each says of itself
    advance  called once for each picture
    """
    lines: list[str] = []
    names: list[str] = []
    shown: list[Row] = [(label, list(originals)) for label, originals in rows]
    for number, (point, picture) in enumerate(zip(points, pictures, strict=True)):
        names.append(f"{number:04d}.png")
        write_file(folder / names[-1], to_png(picture))
        lines.append(json.dumps({"file": names[-1], **point.facts, **record}) + "\n")
        if number < GRID_PICTURES:
            shown[point.row][1].append(picture)
        advance()

    write_file(folder / MANIFEST, "".join(lines))
    last = points[min(len(points), GRID_PICTURES) - 1].row
    write_file(folder / GRID, to_png(labelled_grid(captioned_rows(shown[: last + 1]))))
    return names
