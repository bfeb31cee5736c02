"""Data sets of the Hugging Face hub by name, `hf:owner/name` or `hf:owner/name:split`.

The library `datasets` fetches them into its cache and reads them from there. It runs no code that
comes with a data set. HF_HOME, HF_HUB_OFFLINE and the like are the library's and are honoured.
"""

import re
from typing import Any

from dalle_cli.data.images import Problem
from dalle_cli.data.sources.columns import Columns
from dalle_cli.data.sources.source import Sample, fingerprint_of
from dalle_cli.data.sources.tabular.embedded import EmbeddedColumns, choose_columns, holds_text
from dalle_cli.errors import DalleError, UsageError, printable
from dalle_cli.storage.run_dir import check_hub_cache

HUB_PREFIX = "hf:"
DEFAULT_SPLIT = "train"
_NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)(?::([\w.-]+))?")


class HubSource:
    """Source over the rows of a data set in the library's cache."""

    def __init__(
        self,
        name: str,
        table: Any,
        *,
        columns: EmbeddedColumns,
        split: str,
        captions_required: bool,
    ) -> None:
        """Wrap the library's table, whose pictures are not decoded."""
        self.name = name
        self.form = f"Hugging Face data set, split {split}, {columns}"
        self.problems: list[Problem] = []
        self.unread: dict[str, int] = {}
        self.n_lost = 0
        self._table = table
        self._columns = columns
        self._split = split
        self._captions_required = captions_required

        no_pictures = [name for name in (columns.caption,) if name]
        self._captions = table.select_columns(no_pictures)

    def __len__(self) -> int:
        return len(self._table)

    def key(self, index: int) -> str:
        return f"{self._split}/{index}"

    def read(self, index: int) -> Sample:
        return self._columns.sample(
            self.key(index), self._table[index], captions_required=self._captions_required
        )

    def captions(self, index: int) -> list[str]:
        row = self._captions[index] if self._columns.caption else {}
        return self._columns.captions(row, required=self._captions_required)

    def fingerprint(self) -> str:
        """Hash the name, the columns, the number of rows and their bytes."""
        size = int(self._table.data.nbytes)
        return fingerprint_of([(f"{self.name} {self._columns}", size, len(self._table))])


def open_hub(name: str, *, columns: Columns, captions_required: bool) -> HubSource:
    """Fetch a data set, or find it in the cache; the split is `train` unless named.

    Raises DalleError if it cannot be had, or lacks columns.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise UsageError(
            f"not the name of a data set: {printable(name)}",
            "expected hf:owner/name or hf:owner/name:split",
        )
    split = match[2] or DEFAULT_SPLIT

    table = _load(match[1], split)
    chosen = choose_columns(
        table.features.arrow_schema, name, columns, captions_required=captions_required
    )
    if holds_text(table.features.arrow_schema.field(chosen.image).type):
        raise DalleError(
            printable(f"column `{chosen.image}` of {name} holds text, not pictures"),
            "another column is named with `--image-column`",
        )
    return HubSource(
        name,
        _undecoded(table, chosen),
        columns=chosen,
        split=split,
        captions_required=captions_required,
    )


def _load(path: str, split: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DalleError(
            "data sets of the hub are read with the library `datasets`, which is not installed",
            "`pip install datasets`",
        ) from error

    check_hub_cache()
    try:
        return datasets.load_dataset(path, split=split)
    except Exception as error:  # errors of the libraries below it, too, which share no class
        reason = printable(str(error).partition("\n")[0] or type(error).__name__)
        raise DalleError(
            f"cannot load {path} from the hub: {reason}",
            f"looked in {datasets.config.HF_DATASETS_CACHE}, too; another split is named as in "
            f"{HUB_PREFIX}{path}:test",
        ) from error


def _undecoded(table: Any, columns: EmbeddedColumns) -> Any:
    """Keep the columns in use, with pictures as the bytes that they came as."""
    from datasets import Image

    table = table.select_columns([name for name in (columns.image, columns.caption) if name])
    is_picture = isinstance(table.features[columns.image], Image)
    return table.cast_column(columns.image, Image(decode=False)) if is_picture else table
