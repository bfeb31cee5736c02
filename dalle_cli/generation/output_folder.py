"""The folder that `generate` fills: pictures, a manifest with a line for each, a grid, and candidates not yet added.

A candidate is first held aside, whole or not at all, by whichever process has drawn it; then one process adds all in
order. What an interruption leaves is candidates held, and whole lines of the manifest, or is cut back to them.
"""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dalle_cli.generation.ranking import Scored
from dalle_cli.storage.atomic import atomic_write
from dalle_cli.storage.run_dir import GRID, MANIFEST
from dalle_cli.viz import GRID_PICTURES, captioned_rows, labelled_grid

STAGED = "candidates"
SCORE = "score"


class OutputFolder:
    """What lies in one such folder, and what is still to come.

    settings  that all its pictures were drawn with, for their records
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self._settings = settings
        self._staged = path / STAGED

    def truncate(self, group: int) -> int:
        """Cut the manifest back to whole groups of pictures; give the number of pictures."""
        path = self.path / MANIFEST
        manifest = path.read_bytes() if path.is_file() else b""
        n_written = manifest.count(b"\n") // group * group
        whole = b"".join(manifest.splitlines(keepends=True)[:n_written])
        if whole != manifest:
            with atomic_write(path) as beside:
                beside.write_bytes(whole)
        return n_written

    def stage(self, one: Scored, picture: Image.Image) -> None:
        """Put a candidate aside: unranked as it will be added, ranked with its score."""
        self._staged.mkdir(exist_ok=True)
        record = self._record(one.place, one) if one.score is None else {SCORE: one.score}
        _save(picture, self._staged_file(one.place), record)

    def is_staged(self, place: int) -> bool:
        """Whether the candidate of a place lies aside."""
        return self._staged_file(place).is_file()

    def score(self, place: int) -> float:
        """Read the score of a ranked candidate that lies aside."""
        with Image.open(self._staged_file(place)) as picture:
            return float(picture.info[SCORE])

    def add(self, number: int, one: Scored) -> None:
        """Take a candidate in as the number-th picture, with what it is in PNG text chunks and in the manifest."""
        record = self._record(number, one)
        held, file = self._staged_file(one.place), self.path / record["file"]
        if one.rank is None:
            os.replace(held, file)
        else:
            _save(_read_picture(held), file, record)
        with (self.path / MANIFEST).open("a") as manifest:
            manifest.write(json.dumps(record) + "\n")

    def discard(self, places: Iterable[int]) -> None:
        """Forget candidates held aside: the best of them are added."""
        for place in places:
            self._staged_file(place).unlink(missing_ok=True)

    def discard_all(self) -> None:
        """Forget what is held aside, once everything is added."""
        shutil.rmtree(self._staged, ignore_errors=True)

    def records(self) -> list[dict[str, Any]]:
        """Read what all pictures are, in order."""
        return [json.loads(line) for line in (self.path / MANIFEST).read_text().splitlines()]

    def groups(self, n_kept: int, n_shown: int) -> list[tuple[str, list[Image.Image]]]:
        """Read the pictures of each caption, at most n_shown of the n_kept, and no more than a grid has room for."""
        records = self.records()
        groups: list[tuple[str, list[Image.Image]]] = []
        room = GRID_PICTURES
        for first in range(0, len(records), n_kept):
            own = records[first : first + min(n_shown, n_kept, room)]
            room -= len(own)
            groups += (
                [(own[0]["caption"], [_read_picture(self.path / record["file"]) for record in own])]
                if own
                else []
            )
        return groups

    def save_grid(self, n_kept: int, n_shown: int) -> None:
        """Lay the pictures out under their captions, at most n_shown of the n_kept of each."""
        groups = self.groups(n_kept, n_shown)
        with atomic_write(self.path / GRID) as beside:
            labelled_grid(captioned_rows(groups)).save(beside, format="PNG")

    def _record(self, number: int, one: Scored) -> dict[str, Any]:
        return {"file": f"{number:04d}.png", **one.record(), **self._settings}

    def _staged_file(self, place: int) -> Path:
        return self._staged / f"{place:06d}.png"


def _save(picture: Image.Image, file: Path, record: dict[str, Any]) -> None:
    """Write a picture with a record in its text chunks, whole or not at all."""
    text = PngInfo()
    for key, value in record.items():
        text.add_itxt(key, str(value))
    with atomic_write(file) as beside:
        picture.save(beside, format="PNG", pnginfo=text)


def _read_picture(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")
