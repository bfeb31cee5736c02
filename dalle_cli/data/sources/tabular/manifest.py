"""CSV, TSV and JSON files that list pictures and captions, one pair or one picture per row.

Paths are relative to the file.
"""

import os
from collections.abc import Iterator

from dalle_cli.data.sources.columns import Columns
from dalle_cli.data.sources.tabular.listed import ListedSource, Listing, build_listing
from dalle_cli.data.tables import TABLE_KINDS, read_table
from dalle_cli.errors import printable


def open_manifest(name: str, *, columns: Columns, captions_required: bool) -> ListedSource:
    """Open the pictures that a table lists."""
    listing = read_listing(name, columns=columns, captions_required=captions_required)
    kind = TABLE_KINDS[os.path.splitext(name)[1].lower()]
    return ListedSource(
        name,
        listing,
        folder=os.path.dirname(name),
        form=f"{kind}, {listing.columns_used}",
        captions_required=captions_required,
    )


def read_listing(path: str, *, columns: Columns, captions_required: bool) -> Listing:
    """List the pictures that a table names."""
    return build_listing(_rows(path), path, columns=columns, captions_required=captions_required)


def _rows(path: str) -> Iterator[tuple[str, object]]:
    # Odd bytes are surrogates: right in a file name, found by `clean_captions` in a caption
    before = ": row " if path.lower().endswith(".json") else ":"
    for number, row in read_table(path):
        yield printable(f"{path}{before}{number}"), row
