"""The folder of `dalle data overlap`: pairs in a table and in a picture, and lists to exclude.

pairs.csv            the pairs, nearest first
pairs.png            the nearest of them side by side
exclude-train.txt    keys of training pictures that are copies of test pictures, for `--exclude`
exclude-test.txt     keys of test pictures that are copies of training pictures
overlap.json         how it was done, and the counts
"""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from dalle_cli.data.images import BadSample, decode_image, to_png
from dalle_cli.data.loader import read_sample
from dalle_cli.data.sources import Source
from dalle_cli.data.sources.exclusion import key_list
from dalle_cli.errors import printable
from dalle_cli.scoring.overlap.copy_search import Overlap, PicturePair
from dalle_cli.storage.atomic import write_file
from dalle_cli.viz import labelled_grid, side_by_side, square_tile

PAIRS, SHEET, FACTS = "pairs.csv", "pairs.png", "overlap.json"
EXCLUDED_TRAINING, EXCLUDED_TEST = "exclude-train.txt", "exclude-test.txt"
TILE = 128  # pixels
SHEET_ROWS, SHEET_COLUMNS = 16, 4  # pairs of the sheet
FIELDS = ("distance", "test", "train", "copy")


@dataclass(frozen=True)
class OverlapFolder:
    """Where two data sets and what they share are written about."""

    path: Path
    training: Source
    test: Source

    def write(self, overlap: Overlap, facts: Mapping[str, Any]) -> None:
        """Write everything; facts say how the overlap was found."""
        write_file(self.path / PAIRS, self._table(overlap))
        if overlap.pairs:
            write_file(self.path / SHEET, to_png(self._sheet(overlap)))
        for name, source, indices in (
            (EXCLUDED_TRAINING, self.training, overlap.training),
            (EXCLUDED_TEST, self.test, overlap.test),
        ):
            keys = dict.fromkeys(source.key(index) for index in indices)
            write_file(self.path / name, key_list(keys))
        write_file(self.path / FACTS, json.dumps(facts, indent=1) + "\n")

    def _table(self, overlap: Overlap) -> bytes:
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(FIELDS)
        for pair in overlap.pairs:
            keys = self.test.key(pair.test), self.training.key(pair.training)
            is_copy = pair.distance <= overlap.threshold
            table.writerow([f"{pair.distance:g}", *keys, "yes" if is_copy else "no"])
        # the name of a file that is not UTF-8 is written as its bytes
        return text.getvalue().encode(errors="surrogateescape")

    def _sheet(self, overlap: Overlap) -> Image.Image:
        """Lay out the nearest pairs in columns, each pair under its distance and its keys."""
        shown = overlap.pairs[: SHEET_ROWS * SHEET_COLUMNS]
        rows = [(self._label(pair), self._tiles(pair)) for pair in shown]
        starts = range(0, len(rows), SHEET_ROWS)
        columns = ["test", "train"]
        return side_by_side(
            [labelled_grid(rows[i : i + SHEET_ROWS], columns=columns) for i in starts]
        )

    def _label(self, pair: PicturePair) -> str:
        keys = self.test.key(pair.test), self.training.key(pair.training)
        return printable(f"{pair.distance:.3g}: {keys[0]}, {keys[1]}")

    def _tiles(self, pair: PicturePair) -> list[Image.Image]:
        both = (self.test, pair.test), (self.training, pair.training)
        return [square_tile(_picture(source, index), TILE) for source, index in both]


def _picture(source: Source, index: int) -> Image.Image | None:
    try:
        return decode_image(read_sample(source, index).image)
    except BadSample:  # it has changed since it was compared
        return None
