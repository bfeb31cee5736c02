"""Reading tables that people write: CSV and TSV, whose first line names the columns, and JSON.

JSON has a row a line (.jsonl, .ndjson), or a list of rows (.json). Knows nothing of what the
columns mean. Each row comes with the number of its line, or of its place in the list.
"""

import csv
import itertools
import json
import re
from collections.abc import Iterable, Iterator

from dalle_cli.data.text.encodings import open_text
from dalle_cli.errors import DalleError, printable

TABLE_KINDS = {
    ".csv": "CSV file",
    ".tsv": "TSV file",
    ".jsonl": "JSON Lines file",
    ".ndjson": "JSON Lines file",
    ".json": "JSON list",
}
TABLE_SUFFIXES = tuple(TABLE_KINDS)
SEPARATORS = ",;\t"
_SEPARATOR_LINE = re.compile(r"sep=(.)\s*")  # the first line of what some spreadsheets write
_QUOTED = re.compile('"[^"]*"')


def read_table(path: str) -> Iterator[tuple[int, object]]:
    """Yield the rows of a table, each with its number; a line that is not JSON yields None.

    CSV is separated by commas, semicolons or tabs, as its first line tells; blanks around names of
    columns and before cells do not count.

    Raises DalleError for a CSV table with a faulty quote, which shifts the bounds of all rows after
    it, with more cells than columns in a row, or with two columns of one name; and for a .json file
    that is not a list. Raises OSError if the file cannot be read.
    """
    name = path.lower()
    try:
        with open_text(path) as lines:
            if name.endswith((".csv", ".tsv")):
                yield from _csv_rows(lines, path)
            elif name.endswith(".json"):
                yield from _list_rows(lines.read(), path)
            else:
                yield from _line_rows(lines)
    except UnicodeDecodeError as error:
        raise DalleError(f"{printable(path)} is damaged: {error.reason}") from None


def is_list(path: str) -> bool:
    """Return whether a .json file holds a list, by its first character."""
    with open_text(path) as lines:
        return next((line.lstrip()[0] for line in lines if line.strip()), "") == "["


def _csv_rows(lines: Iterator[str], path: str) -> Iterator[tuple[int, object]]:
    first = next(lines, "")
    n_before = 0
    if match := _SEPARATOR_LINE.fullmatch(first):
        separator, first, n_before = match[1], next(lines, ""), 1
    else:
        separator = "\t" if path.lower().endswith(".tsv") else _separator_of(first)

    reader = csv.reader(
        itertools.chain([first], lines), delimiter=separator, skipinitialspace=True, strict=True
    )
    try:
        columns = _columns(next(reader, []), path)
        for cells in reader:
            line = n_before + reader.line_num
            if any(cell.strip() for cell in cells[len(columns) :]):
                raise _too_many_cells(f"{printable(path)}, line {line}", cells, columns, separator)
            if cells:
                yield line, dict.fromkeys(columns) | dict(zip(columns, cells, strict=False))
    except csv.Error as error:
        raise DalleError(
            f"{printable(path)}, line {n_before + reader.line_num}: {error}",
            "look for a quote that is missing or not doubled",
        ) from None


def _separator_of(first: str) -> str:
    """Return the separator that is most frequent outside quotes; of equals, the comma."""
    return max(SEPARATORS, key=_QUOTED.sub("", first).count)


def _columns(cells: list[str], path: str) -> list[str]:
    columns = [cell.strip() for cell in cells]
    named = [column for column in columns if column]
    if twice := {column for column in named if named.count(column) > 1}:
        raise DalleError(
            f"two columns `{printable(min(twice))}` in {printable(path)}",
            "several captions of a picture are several rows",
        )
    return columns


def _too_many_cells(where: str, cells: list[str], columns: list[str], separator: str) -> DalleError:
    name = {"\t": "a tab"}.get(separator, f"`{separator}`")
    return DalleError(
        f"{where}: {len(cells)} cells, where the first line names {len(columns)} columns",
        f"a caption with {name} in it must stand in double quotes",
    )


def _line_rows(lines: Iterable[str]) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                yield number, None


def _list_rows(text: str, path: str) -> Iterator[tuple[int, object]]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        raise DalleError(f"not JSON: {printable(path)}", "one row a line is .jsonl") from None
    if not isinstance(rows, list):
        raise DalleError(f"not a list of rows: {printable(path)}", "expected [{…}, {…}]")
    yield from enumerate(rows, start=1)
