"""What every reader of public CLIPs gives back, and how it reads other people's JSON and finds their files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import Tensor

from dalle_cli.config import TrainedClipTable
from dalle_cli.errors import DalleError
from dalle_cli.untrusted import printable

MAX_NAMED = 5


@dataclass(frozen=True)
class PublicClip:
    """A checkpoint of someone else's: its sizes and its weights, of the types they are stored in, under our names."""

    table: TrainedClipTable
    weights: dict[str, Tensor]


class ForeignTable(BaseModel, strict=True):
    """A part of someone else's JSON: what is not named here is ignored."""


def read_json(path: Path) -> Any:
    """Parse a file; raises DalleError, naming it, where it cannot be read or is no JSON."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DalleError(f"{path} cannot be read: {printable(str(error))}") from error


def find_weights(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """Find the files that fit the first pattern that any fits: one, or the shards of one model."""
    for pattern in patterns:
        if files := sorted(folder.glob(pattern)):
            return files
    raise _no_weights(folder, patterns)


def find_only_weights(folder: Path, patterns: tuple[str, ...]) -> Path:
    """Find the one file that fits any pattern; raises DalleError, naming them, where there are several."""
    files = sorted({file for pattern in patterns for file in folder.glob(pattern)})
    if not files:
        raise _no_weights(folder, patterns)
    if len(files) > 1:
        names = ", ".join(printable(file.name) for file in files[:MAX_NAMED]) + ", ..." * (
            len(files) > MAX_NAMED
        )
        raise DalleError(
            f"{folder} holds {len(files)} checkpoints: {names}", "give the file that is meant"
        )
    return files[0]


def _no_weights(folder: Path, patterns: tuple[str, ...]) -> DalleError:
    """Say what was looked for in a folder without weights."""
    return DalleError(f"{folder} holds no CLIP", f"looked for {', '.join(patterns)}")
