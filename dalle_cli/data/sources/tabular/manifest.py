"""CSV and JSON Lines files that list pictures and captions, one pair or one picture per row.

Paths are relative to the file.
"""

import os
from collections.abc import Iterator

from dalle_cli.data.sources.columns import Columns
from dalle_cli.data.sources.tabular.listed import ListedSource, Listing, build_listing
from dalle_cli.data.tables import read_table
from dalle_cli.errors import printable


def open_manifest(name: str, *, columns: Columns, captions_required: bool) -> ListedSource:
    """Open the pictures that a CSV or JSON Lines file lists."""
    listing = read_listing(name, columns=columns, captions_required=captions_required)
    kind = "CSV file" if name.lower().endswith(".csv") else "JSON Lines file"
    return ListedSource(
        name,
        listing,
        folder=os.path.dirname(name),
        form=f"{kind}, {listing.columns_used}",
        captions_required=captions_required,
    )


def read_listing(path: str, *, columns: Columns, captions_required: bool) -> Listing:
    """List the pictures that a CSV or JSON Lines file names."""
    return build_listing(_rows(path), path, columns=columns, captions_required=captions_required)


def _rows(path: str) -> Iterator[tuple[str, object]]:
    # Odd bytes become surrogates: right in a file name, found by `clean_captions` in a caption
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        for line, row in read_table(file, path):
            yield printable(f"{path}:{line}"), row
