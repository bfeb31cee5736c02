"""Pictures in files of their own, listed with their captions by rows of a table.

Rows with the same picture add captions to it. Paths are relative to a folder; absolute paths and
`..` are allowed, as the user named the table and pictures are only ever read. The key is the path
as written, without its suffix. Knows nothing of the table's format.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from dalle_cli.data.images import BadSample, Problem
from dalle_cli.data.sources.captions import NO_CAPTION, clean_captions
from dalle_cli.data.sources.columns import DOWNLOAD, Columns, captions_in
from dalle_cli.data.sources.paths import is_address, missing_file
from dalle_cli.data.sources.source import Sample, fingerprint_of
from dalle_cli.errors import printable


class PictureRow(NamedTuple):
    """A row: where it stands, for problems; the picture's path; and its captions."""

    where: str
    image: str
    captions: list[str]


@dataclass(frozen=True)
class Listing:
    """The rows of one table or several, and the problems of those left out.

    image, caption  the columns that hold pictures and captions, for users to read
    """

    rows: list[PictureRow] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    image: str = ""
    caption: str = ""

    @property
    def columns_used(self) -> str:
        """The columns in use, as the end of a form's name."""
        captions = f"captions in `{self.caption}`" if self.caption else "no captions"
        return printable(f"pictures in `{self.image}`, {captions}")


class ListedSource:
    """Source over the pictures that a listing names, in its order."""

    def __init__(
        self, name: str, listing: Listing, *, folder: str, form: str, captions_required: bool
    ) -> None:
        """Index the pictures of a listing whose paths are relative to a folder."""
        self.name = name
        self.form = form
        self.problems = list(listing.problems)
        self.unread: dict[str, int] = {}
        self._folder = folder
        self._images: list[str] = []
        self._captions: list[list[str]] = []

        for image, (where, captions) in _captions_of_images(listing.rows).items():
            if not os.path.isfile(self._path(image)):
                self.problems.append((where, missing_file(image, self._folder)))
            elif captions_required and not captions:
                self.problems.append((where, NO_CAPTION))
            else:
                self._images.append(image)
                self._captions.append(captions)
        self.n_lost = sum(reason != NO_CAPTION for _, reason in self.problems)

    def __len__(self) -> int:
        return len(self._images)

    def key(self, index: int) -> str:
        return os.path.splitext(self._images[index])[0].replace(os.sep, "/")

    def read(self, index: int) -> Sample:
        with open(self._path(self._images[index]), "rb") as file:
            picture = file.read()
        captions = self.captions(index)
        fault = "" if captions else NO_CAPTION
        return Sample(self.key(index), picture, captions=captions, caption_fault=fault)

    def captions(self, index: int) -> list[str]:
        return list(self._captions[index])

    def fingerprint(self) -> str:
        return fingerprint_of(
            (
                self.key(i),
                os.path.getsize(self._path(image)),
                len("\n".join(self._captions[i]).encode()),
            )
            for i, image in enumerate(self._images)
        )

    def _path(self, image: str) -> str:
        return os.path.join(self._folder, image)


def build_listing(
    rows: Iterable[tuple[str, object]], table: str, *, columns: Columns, captions_required: bool
) -> Listing:
    """Build the listing of a table from its rows, each given with where it stands.

    Raises DalleError if no row has a column of pictures, or none has one of captions that are
    required.
    """
    listed: list[PictureRow] = []
    problems: list[Problem] = []
    seen: dict[str, None] = {}  # the names of all columns, in order

    for where, row in rows:
        seen.update(dict.fromkeys(row if isinstance(row, dict) else ()))
        try:
            listed.append(PictureRow(where, *_image_and_captions(row, columns)))
        except BadSample as error:
            problems.append((where, error.reason))

    image, caption = columns.find_image(seen), columns.find_caption(seen)
    if seen and image is None:
        raise columns.image_missing(seen, table)
    if seen and caption is None and captions_required:
        raise columns.caption_missing(seen, table)
    return Listing(listed, problems, image=image or "", caption=caption or "")


def _image_and_captions(row: object, columns: Columns) -> tuple[str, list[str]]:
    if not isinstance(row, dict):
        raise BadSample("not a JSON object")

    cells = [row[column] for column in columns.find_images(row)]
    named = [cell for cell in cells if isinstance(cell, str) and cell]
    files = [cell for cell in named if not is_address(cell)]
    if not named:
        raise BadSample("row without picture")
    if not files:
        raise BadSample(f"an address, not a file; {DOWNLOAD}: {printable(named[0])}")

    captions = captions_in(row, columns.find_captions(row))
    return os.path.normpath(files[0]), clean_captions(captions)


def _captions_of_images(rows: list[PictureRow]) -> dict[str, tuple[str, list[str]]]:
    """Gather, for each picture, where it is first named and all its captions."""
    gathered: dict[str, tuple[str, list[str]]] = {}
    for where, image, captions in rows:
        gathered.setdefault(image, (where, []))[1].extend(captions)
    return gathered
