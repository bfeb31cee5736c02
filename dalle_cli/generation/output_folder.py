"""The folder that `generate` fills: pictures, a manifest with a line for each, a grid, and staged
candidates.

A candidate is first staged, completely or not at all, by the process that generated it; then the
main process adds them all in order. An interruption leaves staged candidates, and a manifest that
`truncate` cuts back to whole lines.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dalle_cli.data.images import to_png
from dalle_cli.generation.ranking import ScoredCandidate
from dalle_cli.pages.gallery import gallery
from dalle_cli.storage.atomic import append_to_file, make_folder, write_file
from dalle_cli.storage.run_dir import GALLERY, GRID, MANIFEST, RunDir
from dalle_cli.storage.shipped import shipped_name
from dalle_cli.viz import GRID_PICTURES, captioned_rows, labelled_grid

STAGED = "candidates"
SCORE = "score"


class OutputFolder:
    """The folder of a generation job.

    settings  that all its pictures were generated with, for their records
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self._settings = settings
        self._staged = path / STAGED

    def truncate(self, group: int) -> int:
        """Truncate the manifest to whole groups of pictures; return the number of pictures left."""
        path = self.path / MANIFEST
        manifest = path.read_bytes() if path.is_file() else b""

        n_written = manifest.count(b"\n") // group * group
        whole = b"".join(manifest.splitlines(keepends=True)[:n_written])
        if whole != manifest:
            write_file(path, whole)
        return n_written

    def stage(self, scored: ScoredCandidate, picture: Image.Image) -> None:
        """Write a candidate that is to be added later; if it is ranked, with its score."""
        make_folder(self._staged)
        is_ranked = scored.score is not None
        record = {SCORE: scored.score} if is_ranked else self._record(scored.position, scored)
        _save(picture, self._staged_file(scored.position), record)

    def is_staged(self, position: int) -> bool:
        """Whether the candidate of a position is staged."""
        return self._staged_file(position).is_file()

    def staged_score(self, position: int) -> float:
        """Read the score of a ranked candidate that is staged."""
        with Image.open(self._staged_file(position)) as picture:
            return float(picture.info[SCORE])

    def add(self, number: int, scored: ScoredCandidate) -> None:
        """Add a staged candidate as picture `number`.

        Its record goes into the picture's PNG text chunks and into the manifest.
        """
        record = self._record(number, scored)
        staged, file = self._staged_file(scored.position), self.path / record["file"]

        if scored.rank is None:
            os.replace(staged, file)
        else:
            _save(_read_picture(staged), file, record)

        append_to_file(self.path / MANIFEST, json.dumps(record) + "\n")

    def discard(self, positions: Iterable[int]) -> None:
        """Remove staged candidates, once the best of them are added."""
        for position in positions:
            self._staged_file(position).unlink(missing_ok=True)

    def discard_all(self) -> None:
        """Remove everything staged, once everything is added."""
        shutil.rmtree(self._staged, ignore_errors=True)

    def records(self) -> list[dict[str, Any]]:
        """Read the records of all pictures, in order."""
        return [json.loads(line) for line in (self.path / MANIFEST).read_text().splitlines()]

    def summary(self) -> dict[str, Any]:
        """Return the paths of everything in the folder, and the scores of ranked pictures."""
        records = self.records()
        summary: dict[str, Any] = {
            "out": str(self.path),
            "files": [str(self.path / record["file"]) for record in records],
            "grid": str(self.path / GRID),
            "gallery": str(self.path / GALLERY),
            "manifest": str(self.path / MANIFEST),
        }
        if SCORE in records[0]:
            summary["scores"] = [record[SCORE] for record in records]
        return summary

    def groups(self, *, n_kept: int, n_shown: int) -> list[tuple[str, list[Image.Image]]]:
        """Read the pictures of each caption.

        At most n_shown of its n_kept, and no more than fit on a grid.
        """
        records = self.records()
        groups: list[tuple[str, list[Image.Image]]] = []
        room = GRID_PICTURES

        for first in range(0, len(records), n_kept):
            shown = records[first : first + min(n_shown, n_kept, room)]
            room -= len(shown)
            if shown:
                pictures = [_read_picture(self.path / record["file"]) for record in shown]
                groups.append((shown[0]["caption"], pictures))
        return groups

    def save_grid(self, *, n_kept: int, n_shown: int) -> None:
        """Write a grid of pictures under their captions, at most n_shown of the n_kept of each."""
        groups = self.groups(n_kept=n_kept, n_shown=n_shown)
        write_file(self.path / GRID, to_png(labelled_grid(captioned_rows(groups))))

    def save_gallery(self, command: Callable[[Mapping[str, Any]], list[str]]) -> None:
        """Write a page of all pictures, with the words of the command that generates each again."""
        records = self.records()
        side = _read_picture(self.path / records[0]["file"]).width
        page = gallery(records, side=side, command=command)
        write_file(self.path / GALLERY, page)

    def _record(self, number: int, scored: ScoredCandidate) -> dict[str, Any]:
        return {"file": f"{number:04d}.png", **scored.record(), **self._settings}

    def _staged_file(self, position: int) -> Path:
        return self._staged / f"{position:06d}.png"


def create_samples_folder(run: Path) -> Path:
    """Create the next numbered folder below a run's `samples/`, or below `samples/NAME` in the
    current folder for a shipped model.
    """
    name = shipped_name(run)
    return create_numbered_folder(RunDir(run).samples if name is None else Path("samples", name))


def create_numbered_folder(parent: Path) -> Path:
    """Create the next numbered folder below another; several commands may do so at once."""
    make_folder(parent)
    taken = [int(path.name) for path in parent.iterdir() if path.name.isdecimal()]

    number = max(taken, default=-1) + 1
    while True:
        try:
            (parent / f"{number:03d}").mkdir()
        except FileExistsError:
            number += 1
        else:
            return parent / f"{number:03d}"


def _save(picture: Image.Image, file: Path, record: Mapping[str, Any]) -> None:
    """Write a picture with a record in its text chunks, completely or not at all."""
    text = PngInfo()
    for key, value in record.items():
        text.add_itxt(key, str(value))
    write_file(file, to_png(picture, text))


def _read_picture(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")
