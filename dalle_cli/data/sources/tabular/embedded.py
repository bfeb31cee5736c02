"""Rows with pictures in their cells, as Hugging Face's tables hold them, and their captions."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dalle_cli.data.images import BadSample
from dalle_cli.data.sources.captions import NO_CAPTION, captions_or_fault, clean_captions
from dalle_cli.data.sources.columns import Columns, captions_in
from dalle_cli.data.sources.paths import missing_file
from dalle_cli.data.sources.source import Sample
from dalle_cli.errors import DalleError, printable


@dataclass(frozen=True)
class EmbeddedColumns:
    """The columns of a table whose cells hold pictures.

    caption      None if the table has no captions
    class_names  captions in words, if the captions are numbers of classes
    folder       that paths in cells are relative to
    """

    image: str
    caption: str | None
    class_names: Sequence[str] = ()
    folder: str = ""

    def __str__(self) -> str:
        captions = f"captions in `{self.caption}`" if self.caption else "no captions"
        return printable(f"pictures in `{self.image}`, {captions}")

    def sample(self, key: str, row: dict, *, captions_required: bool) -> Sample:
        """Build the sample of a row; raises BadSample if it has no picture or lacks captions."""
        captions, fault = captions_or_fault(lambda: self._captions(row), required=captions_required)
        picture = self._picture(row.get(self.image))
        return Sample(key, picture, captions=captions, caption_fault=fault)

    def captions(self, row: dict, *, required: bool) -> list[str]:
        """Return the captions of a row; raises BadSample if there are none, but required."""
        return captions_or_fault(lambda: self._captions(row), required=required)[0]

    def _captions(self, row: dict) -> list[str]:
        if self.class_names:
            number = row.get(str(self.caption))
            if not isinstance(number, int) or number not in range(len(self.class_names)):
                captions = []
            else:
                captions = [self.class_names[number]]
        else:
            captions = clean_captions(captions_in(row, [self.caption] if self.caption else []))

        if not captions:
            raise BadSample(NO_CAPTION)
        return captions

    def _picture(self, cell: object) -> bytes:
        """Return the bytes in a cell, or those of the file that it names instead."""
        content, path = (
            (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        )
        if isinstance(content, bytes):
            return content
        if not isinstance(path, str):
            raise BadSample("row without picture")

        try:
            with open(os.path.join(self.folder, path), "rb") as file:
                return file.read()
        except (FileNotFoundError, ValueError):
            raise BadSample(missing_file(path, self.folder)) from None


def choose_columns(
    schema: Any, path: str, columns: Columns, *, captions_required: bool
) -> EmbeddedColumns:
    """Choose the columns of pictures and captions.

    Pictures are in a known column or in the only one that holds bytes. Raises DalleError if there
    is none, or captions are required and there are none.
    """
    holders = [field.name for field in schema if _is_picture(field.type)]
    paths = [field.name for field in schema if holds_text(field.type)]
    image = columns.find_image(holders) or columns.find_image(paths)
    if image is None and columns.image is None and len(holders) == 1:
        image = holders[0]
    if image is None:
        raise columns.image_missing(schema.names, path)

    texts = [
        field.name
        for field in schema
        if field.name != image and (_is_caption(field.type) or _class_names(schema, field.name))
    ]
    caption = columns.find_caption(texts)
    if columns.caption in schema.names and caption is None:
        kind = schema.field(columns.caption).type
        raise DalleError(
            printable(f"column `{columns.caption}` of {path} holds {kind}, not text"),
            printable(f"columns with text: {', '.join(texts) or 'none'}"),
        )
    if caption is None and (captions_required or columns.caption is not None):
        raise columns.caption_missing(schema.names, path)
    return EmbeddedColumns(
        image, caption, class_names=_class_names(schema, caption), folder=os.path.dirname(path)
    )


def _is_picture(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(field.name == "bytes" for field in kind)
    return types.is_binary(kind) or types.is_large_binary(kind)


def holds_text(kind: Any) -> bool:
    """Return whether one of pyarrow's types is text."""
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind)


def _is_caption(kind: Any) -> bool:
    from pyarrow import types

    is_list = types.is_list(kind) or types.is_large_list(kind)
    return holds_text(kind.value_type if is_list else kind)


def _class_names(schema: Any, caption: str | None) -> list[str]:
    """Return the names of a column's classes, if Hugging Face's metadata have them."""
    try:
        metadata = json.loads((schema.metadata or {})[b"huggingface"])
        names = metadata["info"]["features"][caption]["names"]
    except (LookupError, TypeError, ValueError, RecursionError):
        return []
    is_list_of_text = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if is_list_of_text else []
