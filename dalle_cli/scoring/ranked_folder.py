"""The output folder of ranked pictures: copies of the best, a grid of them, and tables of all.

Every file appears complete or not at all.
"""

import csv
import io
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

from PIL import Image

from dalle_cli.data.images import BadSample, decode_image, to_png
from dalle_cli.scoring.picture_ranking import PictureScore
from dalle_cli.storage.atomic import copy_file, write_file
from dalle_cli.storage.run_dir import GRID, SCORES, SCORES_TABLE
from dalle_cli.viz import GRID_PICTURES, captioned_rows, labelled_grid, square_tile

TILE_SIZE = 256  # pixels; larger pictures are shown smaller


def write_ranked_folder(
    folder: Path, scores: Sequence[PictureScore], *, top_k: int
) -> list[PictureScore]:
    """Copy the best of each caption, in order, and write the grid and the tables.

    Returns the scores with the names of the copies.
    """
    written = _copy_best(folder, scores, top_k)
    _write_grid(folder, written)
    _write_tables(folder, written)
    return written


def _copy_best(folder: Path, scores: Sequence[PictureScore], top_k: int) -> list[PictureScore]:
    written: list[PictureScore] = []
    numbers = itertools.count()
    for score in scores:
        if score.rank is not None and score.rank <= top_k:
            name = f"{next(numbers):04d}{Path(score.picture).suffix.lower()}"
            copy_file(Path(score.picture), folder / name)
            score = replace(score, file=name)
        written.append(score)
    return written


def _write_grid(folder: Path, scores: Sequence[PictureScore]) -> None:
    """Lay the copies out in rows, under their captions."""
    copies = [(score.caption, score.file) for score in scores if score.file is not None]
    tiles: dict[str, list[Image.Image]] = {}
    for caption, file in copies[:GRID_PICTURES]:
        tiles.setdefault(caption, []).append(_tile(folder / file))

    if tiles:
        write_file(folder / GRID, to_png(labelled_grid(captioned_rows(tiles.items()))))


def _tile(file: Path) -> Image.Image:
    try:
        picture = decode_image(file.read_bytes())
    except BadSample:  # it has changed since it was scored
        picture = None
    return square_tile(picture, TILE_SIZE)


def _write_tables(folder: Path, scores: Sequence[PictureScore]) -> None:
    rows = [asdict(score) for score in scores]
    write_file(folder / SCORES, "".join(json.dumps(row) + "\n" for row in rows))

    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in fields(PictureScore)])
    table.writeheader()
    table.writerows(rows)
    # a file name that is not UTF-8 is written as its bytes
    write_file(folder / SCORES_TABLE, text.getvalue().encode(errors="surrogateescape"))
