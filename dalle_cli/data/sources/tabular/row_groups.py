"""Reading parquet files piece by piece: footers, and row groups of which a few are kept.

The library, pyarrow, is imported only when a file is read.
"""

import os
import threading
from collections import OrderedDict
from typing import Any

from dalle_cli.errors import DalleError, printable

KEPT_BYTES = 2**27  # of row groups, in each process; one is kept however large


class RowGroups:
    """The row groups read last, by file, number and columns. A copy in another process is empty."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple, Any] = OrderedDict()

    def __reduce__(self) -> tuple[type["RowGroups"], tuple]:
        return RowGroups, ()

    def read(self, path: str, number: int, *, names: list[str]) -> Any:
        """Return the columns of a row group as pyarrow's table."""
        key = (path, number, *names)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = read_row_group(path, number, names)
            self._kept.move_to_end(key)

            while len(self._kept) > 1 and self._n_bytes() > KEPT_BYTES:
                self._kept.popitem(last=False)
            return self._kept[key]

    def _n_bytes(self) -> int:
        return sum(table.nbytes for table in self._kept.values())


def captions_beside(shard: str) -> dict[str, str]:
    """Return captions by key from the parquet file that img2dataset writes beside a shard.

    It is empty if there is no such file, or one without keys and captions.
    """
    path = f"{os.path.splitext(shard)[0]}.parquet"
    if not os.path.isfile(path):
        return {}
    schema, sizes = read_footer(path)
    if not {"key", "caption"} <= set(schema.names):
        return {}

    captions: dict[Any, Any] = {}
    for number in range(len(sizes)):
        table = read_row_group(path, number, ["key", "caption"])
        captions.update(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return {key: caption for key, caption in captions.items() if isinstance(caption, str)}


def read_footer(path: str) -> tuple[Any, list[int]]:
    """Read a file's schema, and the number of rows in each of its row groups."""
    pyarrow, parquet = _libraries()
    try:
        with parquet.ParquetFile(path) as file:
            metadata = file.metadata
            sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            return file.schema_arrow, sizes
    except pyarrow.ArrowException as error:
        raise DalleError(
            f"not a parquet file, or a damaged one: {printable(path)}",
            printable(str(error).partition("\n")[0]),
        ) from error


def read_row_group(path: str, number: int, names: list[str]) -> Any:
    """Read the named columns of one row group as a pyarrow table; raises OSError if damaged."""
    pyarrow, parquet = _libraries()
    try:
        # In a loader process, pyarrow's threads would be those of its parent
        with parquet.ParquetFile(path) as file:
            return file.read_row_group(number, columns=names, use_threads=False)
    except pyarrow.ArrowException as error:
        raise OSError(f"row group {number} of {printable(path)} is damaged: {error}") from error


def _libraries() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DalleError(
            "parquet files are read with pyarrow, which is not installed",
            "`pip install datasets` brings it",
        ) from error
    return pyarrow, pyarrow.parquet
