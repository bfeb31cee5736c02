"""Hugging Face's imagefolder: pictures, and `metadata.csv` or `metadata.jsonl` among them.

Any subfolder may have its metadata, whose paths are relative to it. Keys are those that the
pictures would have in a plain folder.
"""

import os
import posixpath

from dalle_cli.data.sources.columns import Columns
from dalle_cli.data.sources.file_names import PICTURE_SUFFIXES, split_name
from dalle_cli.data.sources.tabular.listed import ListedSource, Listing, PictureRow
from dalle_cli.data.sources.tabular.manifest import read_listing
from dalle_cli.errors import printable

METADATA = ("metadata.csv", "metadata.jsonl")


def metadata_files(files: list[str]) -> list[str]:
    """Return those of a folder's files that are Hugging Face metadata."""
    return [file for file in files if posixpath.basename(file).lower() in METADATA]


def open_image_folder(
    folder: str, files: list[str], *, columns: Columns, captions_required: bool
) -> ListedSource:
    """Open the pictures of a folder with metadata, given the names of all files below it."""
    metadata = metadata_files(files)
    listings = [
        read_listing(
            os.path.join(folder, *file.split("/")),
            columns=columns,
            captions_required=captions_required,
        )
        for file in metadata
    ]

    rows = [
        row._replace(image=posixpath.normpath(posixpath.join(posixpath.dirname(file), row.image)))
        for file, listing in zip(metadata, listings, strict=True)
        for row in listing.rows
    ]
    problems = [problem for listing in listings for problem in listing.problems]
    problems += [
        (printable(os.path.join(folder, file)), "picture that no metadata name")
        for file in _unnamed_pictures(files, rows)
    ]

    names = " and ".join(sorted({posixpath.basename(file) for file in metadata}))
    return ListedSource(
        folder,
        Listing(rows, problems),
        folder=folder,
        form=f"Hugging Face folder with {names}, {listings[0].columns_used}",
        captions_required=captions_required,
    )


def _unnamed_pictures(files: list[str], rows: list[PictureRow]) -> list[str]:
    named = {row.image for row in rows}
    return [file for file in files if split_name(file)[1] in PICTURE_SUFFIXES and file not in named]
