"""The result of every reader of public CLIPs, and how those read foreign JSON and find weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import Tensor

from dalle_cli.config import TrainedClipTable
from dalle_cli.errors import DalleError, printable
from dalle_cli.storage.small_files import load_json

MAX_NAMED = 5


@dataclass(frozen=True)
class PublicClip:
    """A public checkpoint: its sizes, and its renamed weights in their stored types.

    assumption  what nothing in it states and was assumed, for users to read, or ""
    """

    table: TrainedClipTable
    weights: dict[str, Tensor]
    assumption: str = ""


class ForeignTable(BaseModel, strict=True):
    """Base class for a part of foreign JSON; keys that it does not declare are ignored."""


def read_json(path: Path) -> Any:
    """Parse a file; raises DalleError, naming it, if it cannot be read or is not JSON."""
    try:
        return load_json(path)
    except (OSError, ValueError) as error:
        raise DalleError(f"{path} cannot be read: {printable(str(error))}") from error


def find_weights(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """Find the files that match the first pattern with any match: one, or the shards of one model.

    Raises DalleError if none matches.
    """
    for pattern in patterns:
        if files := sorted(folder.glob(pattern)):
            return files
    raise _no_weights(folder, patterns)


def find_only_weights(folder: Path, patterns: tuple[str, ...]) -> Path:
    """Find the only file that matches any pattern.

    Raises DalleError if there is none, or, naming them, if there are several.
    """
    files = sorted({file for pattern in patterns for file in folder.glob(pattern)})
    if not files:
        raise _no_weights(folder, patterns)
    if len(files) > 1:
        names = [printable(file.name) for file in files[:MAX_NAMED]]
        names += ["..."] if len(files) > MAX_NAMED else []
        raise DalleError(
            f"{folder} holds {len(files)} checkpoints: {', '.join(names)}",
            "give the file that is meant",
        )
    return files[0]


def _no_weights(folder: Path, patterns: tuple[str, ...]) -> DalleError:
    """Build the error for a folder without weights, with the patterns that were tried."""
    return DalleError(f"{folder} holds no CLIP", f"looked for {', '.join(patterns)}")
