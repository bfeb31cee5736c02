"""The folder that `generate` fills: pictures, a manifest with a line for each, a grid, and candidates not yet ranked.

What an interruption leaves is whole lines of the manifest, or is cut back to them. Where candidates are ranked, those
of the caption under way are held aside until all are there.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dalle_cli.drawing import Candidate
from dalle_cli.reranking import Scored
from dalle_cli.run_dir import GRID, MANIFEST, whole_or_absent
from dalle_cli.viz import GRID_PICTURES, captioned_rows, labelled_grid

HELD = "candidates"


class DrawnFolder:
    """What lies in one such folder, and what is still to come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held = path / HELD

    def cut_back(self, group: int) -> int:
        """Cut the manifest back to whole groups of pictures; give the number of pictures."""
        path = self.path / MANIFEST
        manifest = path.read_bytes() if path.is_file() else b""
        n_written = manifest.count(b"\n") // group * group
        whole = b"".join(manifest.splitlines(keepends=True)[:n_written])
        if whole != manifest:
            with whole_or_absent(path) as beside:
                beside.write_bytes(whole)
        return n_written

    def held(self, candidates: list[Candidate]) -> list[Scored]:
        """Read back the candidates that were held aside, if they are the first of those wanted next."""
        lines = _whole_lines(self._held / MANIFEST)
        if [Candidate(line["caption"], line["number"]) for line in lines] != candidates[: len(lines)]:
            self.release()  # of a caption that is written already
            return []
        files = [self._held / line["file"] for line in lines]
        pictures = [_read_picture(file) for file in files]
        scores = [line["score"] for line in lines]
        return list(map(Scored, candidates, pictures, scores))

    def hold(self, drawn: Iterable[Scored], place: int) -> Iterator[Scored]:
        """Put candidates aside as they pass by; `place` numbers the first."""
        for number, one in enumerate(drawn, start=place):
            self._held.mkdir(exist_ok=True)
            record = {"file": f"{number:06d}.png", **asdict(one.candidate), "score": one.score}
            one.picture.save(self._held / record["file"])
            _append(self._held / MANIFEST, record)
            yield one

    def release(self) -> None:
        """Forget the candidates held aside: the best are written."""
        shutil.rmtree(self._held, ignore_errors=True)

    def add(self, place: int, one: Scored, settings: dict[str, Any]) -> None:
        """Write a picture, with what it is in PNG text chunks and in the manifest."""
        record = {"file": f"{place:04d}.png", **one.record(), **settings}
        text = PngInfo()
        for key, value in record.items():
            text.add_itxt(key, str(value))
        one.picture.save(self.path / record["file"], pnginfo=text)
        _append(self.path / MANIFEST, record)

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
                [(own[0]["caption"], [_read_picture(self.path / record["file"]) for record in own])] if own else []
            )
        return groups

    def save_grid(self, n_kept: int, n_shown: int) -> None:
        """Lay the pictures out under their captions, at most n_shown of the n_kept of each."""
        groups = self.groups(n_kept, n_shown)
        with whole_or_absent(self.path / GRID) as beside:
            labelled_grid(captioned_rows(groups)).save(beside, format="PNG")


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Read the lines that were written to their end, and cut off what follows them."""
    content = path.read_bytes() if path.is_file() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]


def _read_picture(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def _append(path: Path, record: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
