"""What `vary`, `blend` and `project` have in common: rows of points become a folder of pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dalle_cli.console import Terminal
from dalle_cli.errors import printable
from dalle_cli.generation.output_folder import create_samples_folder
from dalle_cli.generation.unclip.latent_points import LatentPoint
from dalle_cli.generation.unclip.painting import Painter, PaintOptions
from dalle_cli.generation.unclip.point_folder import write_points
from dalle_cli.storage.atomic import atomic_folder
from dalle_cli.storage.run_dir import GRID, MANIFEST
from dalle_cli.viz import Row


def write_painted_rows(
    painter: Painter,
    points: Sequence[LatentPoint],
    rows: Sequence[Row],
    *,
    options: PaintOptions,
    facts: Mapping[str, Any],
    terminal: Terminal,
) -> None:
    """Paint points into the folder of the options, whole or not at all, and print it.

    rows   see `write_points`
    facts  further fields of every picture's record
    """
    out = options.out or create_samples_folder(options.run)
    terminal.say(f"painting {len(points):,} pictures into {printable(str(out))}")
    progress = terminal.progress(len(points), 0, "picture")
    with atomic_folder(out) as staging, progress as line:
        names = write_points(
            staging,
            points,
            painter.paint(points),
            rows=rows,
            record={**facts, **painter.record},
            advance=line.advance,
        )
    terminal.result(str(out), _summary(out, names))


def _summary(out: Path, names: Sequence[str]) -> dict[str, Any]:
    return {
        "out": str(out),
        "files": [str(out / name) for name in names],
        "grid": str(out / GRID),
        "manifest": str(out / MANIFEST),
    }
