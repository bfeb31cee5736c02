"""Parquet files whose rows hold encoded pictures, or name them, and their captions.

Of embedded pictures only footers are read beforehand. Later the row group of a sample is read, and
a few groups are kept: samples that are near in the files are near in training, too. The key of a
sample is its file's name and the number of its row there.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dalle_cli.data.images import Problem
from dalle_cli.data.sources.columns import Columns
from dalle_cli.data.sources.source import Sample, Source, fingerprint_of
from dalle_cli.data.sources.tabular.embedded import EmbeddedColumns, choose_columns, holds_text
from dalle_cli.data.sources.tabular.listed import ListedSource, Listing, build_listing
from dalle_cli.data.sources.tabular.row_groups import RowGroups, read_footer, read_row_group
from dalle_cli.errors import DalleError, printable


def is_parquet(name: str) -> bool:
    """Return whether a file is parquet, by its name."""
    return name.lower().endswith(".parquet")


def holds_pictures(path: str, columns: Columns) -> bool:
    """Return whether a file holds pictures, rather than their paths or something else."""
    try:
        schema = read_footer(path)[0]
        chosen = choose_columns(schema, path, columns, captions_required=False)
    except DalleError:  # damaged, other columns, or no library to look into it
        return False
    return not holds_text(schema.field(chosen.image).type)


def open_parquet(
    name: str, paths: Sequence[str], *, columns: Columns, captions_required: bool
) -> Source:
    """Open the pictures in parquet files, or those that their rows name.

    Raises DalleError if the library is missing, a file is damaged, or a column is not found.
    """
    schemas = [read_footer(path)[0] for path in paths]
    chosen = choose_columns(schemas[0], paths[0], columns, captions_required=captions_required)
    for schema, path in zip(schemas, paths, strict=True):
        if chosen.image not in schema.names:
            raise Columns(chosen.image, chosen.caption).image_missing(schema.names, path)
        if chosen.caption and chosen.caption not in schema.names:
            raise Columns(chosen.image, chosen.caption).caption_missing(schema.names, path)

    kind = "parquet file" if len(paths) == 1 else f"{len(paths)} parquet files"
    if not holds_text(schemas[0].field(chosen.image).type):
        return ParquetSource(
            name, paths, columns=chosen, form=kind, captions_required=captions_required
        )
    if len(paths) > 1:
        raise DalleError(
            f"several parquet files that name pictures: {printable(name)}", "name one of them"
        )
    return ListedSource(
        name,
        _list_rows(paths[0], chosen, captions_required=captions_required),
        folder=os.path.dirname(paths[0]),
        form=f"{kind}, {chosen}",
        captions_required=captions_required,
    )


class ParquetSource:
    """Source over the rows of parquet files that hold encoded pictures."""

    def __init__(
        self,
        name: str,
        paths: Sequence[str],
        *,
        columns: EmbeddedColumns,
        form: str,
        captions_required: bool,
    ) -> None:
        self.name = name
        self.form = f"{form}, {columns}"
        self.problems: list[Problem] = []
        self.unread: dict[str, int] = {}
        self.n_lost = 0
        self._paths = paths
        self._columns = columns
        self._captions_required = captions_required
        self._cache = RowGroups()

        groups = [
            (file, group, n_rows)
            for file, path in enumerate(paths)
            for group, n_rows in enumerate(read_footer(path)[1])
        ]
        # int64 [G, 3]: number of the file, number of the row group in it, number of rows
        self._groups = np.array(groups, np.int64).reshape(-1, 3)
        self._ends = self._groups[:, 2].cumsum()

    def __len__(self) -> int:
        return int(self._groups[:, 2].sum())

    def key(self, index: int) -> str:
        group, row = self._find(index)
        file = int(self._groups[group, 0])
        is_before = self._groups[:group, 0] == file
        first = int(self._groups[:group, 2][is_before].sum())
        stem = os.path.splitext(os.path.basename(self._paths[file]))[0]
        return f"{stem}/{first + row}"

    def read(self, index: int) -> Sample:
        names = [self._columns.image, *self._caption_columns()]
        row = self._row(index, names)
        return self._columns.sample(self.key(index), row, captions_required=self._captions_required)

    def captions(self, index: int) -> list[str]:
        row = self._row(index, self._caption_columns())
        return self._columns.captions(row, required=self._captions_required)

    def fingerprint(self) -> str:
        """Hash the columns, and the names, sizes and numbers of rows of all files."""
        rows = np.bincount(self._groups[:, 0], weights=self._groups[:, 2])
        files = [
            (os.path.basename(path), os.path.getsize(path), int(rows[file]))
            for file, path in enumerate(self._paths)
        ]
        return fingerprint_of([(str(self._columns), 0, 0), *files])

    def _caption_columns(self) -> list[str]:
        return [self._columns.caption] if self._columns.caption else []

    def _row(self, index: int, names: list[str]) -> dict[str, Any]:
        if not names:
            return {}
        group, row = self._find(index)
        file, number, _ = self._groups[group].tolist()
        table = self._cache.read(self._paths[file], number, names=names)
        return {name: table.column(name)[row].as_py() for name in names}

    def _find(self, index: int) -> tuple[int, int]:
        """Return the row group that holds a sample, and the sample's row there."""
        group = int(np.searchsorted(self._ends, index, side="right"))
        return group, index - int(self._ends[group] - self._groups[group, 2])


def _list_rows(path: str, columns: EmbeddedColumns, *, captions_required: bool) -> Listing:
    names = [columns.image, *([columns.caption] if columns.caption else [])]
    chosen = Columns(columns.image, columns.caption)
    return build_listing(
        _rows(path, names), path, columns=chosen, captions_required=captions_required
    )


def _rows(path: str, names: list[str]) -> Iterator[tuple[str, object]]:
    number = 0
    for group in range(len(read_footer(path)[1])):
        for row in read_row_group(path, group, names).to_pylist():
            number += 1
            yield printable(f"{path}: row {number}"), row
