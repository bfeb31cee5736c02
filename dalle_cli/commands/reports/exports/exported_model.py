"""A model's sizes and weights, as an export has them."""

from collections.abc import Sequence
from pathlib import Path

from dalle_cli.config import ModelTable, kind_of
from dalle_cli.storage.lazy_tensors import Stored
from dalle_cli.storage.model_folder import half_precision, write_model


def export_model(table: ModelTable, weights: Sequence[Path], folder: Path, *, half: bool) -> None:
    """Write sizes and weights into a folder, with checksums where there were none.

    weights  the files that hold them
    half     whether matrices are stored in fp16
    """
    config = {"kind": kind_of(table), "model": table.model_dump()}
    stored = dict(Stored(list(weights)))
    write_model(folder, config, half_precision(stored) if half else stored)
