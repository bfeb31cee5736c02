"""Reading tables that people write: CSV whose first line names the columns, and JSON Lines.

Knows nothing of what the columns mean. Each row comes with the number of its line.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence

from dalle_cli.errors import DalleError, printable

TABLE_SUFFIXES = (".csv", ".jsonl")


def read_table(
    lines: Iterable[str], name: str, *, columns: Sequence[str] = ()
) -> Iterator[tuple[int, object]]:
    """Yield the rows of a table with their line numbers; a line that is not JSON yields None.

    lines    with their line ends, if the table is CSV
    name     the file name, whose suffix tells CSV from JSON Lines
    columns  those that a CSV table must have

    Raises DalleError for a CSV table that lacks them, or with a faulty quote: it shifts the bounds
    of all rows after it.
    """
    if name.lower().endswith(".csv"):
        return _csv_rows(lines, name, columns)
    return _json_rows(lines)


def _csv_rows(
    lines: Iterable[str], name: str, columns: Sequence[str]
) -> Iterator[tuple[int, object]]:
    reader = csv.DictReader(lines, strict=True)
    try:
        found = reader.fieldnames or []
        if missing := [column for column in columns if column not in found]:
            raise DalleError(
                f"no column `{missing[0]}` in {printable(name)}",
                "the first line must name the columns, separated by commas; found: "
                f"{printable(', '.join(found))}",
            )

        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise DalleError(
            f"{printable(name)}, line {reader.reader.line_num}: {error}",
            "look for a quote that is missing or not doubled",
        ) from None


def _json_rows(lines: Iterable[str]) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                yield number, None
