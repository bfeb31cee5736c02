"""A run's record, `recipe.json`: its recipe, the command that began it, and what was found then.

It is written when a run begins and whenever it is resumed, which needs nothing else. Knows nothing
of checkpoints, nor of what a recipe means.
"""

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from dalle_cli import __version__
from dalle_cli.errors import DalleError
from dalle_cli.storage.atomic import make_folder, write_file
from dalle_cli.storage.integrity.checksums import checksummed_json, load_checksummed_json
from dalle_cli.storage.run_dir import RunDir

RECORD_SCHEMA = 4
READABLE = (3, RECORD_SCHEMA)  # 3 has no checksum
URL = re.compile(r"[a-z]{2,}:")  # longer than the letter of a drive


@dataclass(frozen=True)
class RunRecord:
    """What a run states about itself: its recipe, what `auto` was resolved to, and its data.

    command      the training command and its inputs, paths made absolute
    zero         DeepSpeed's configuration, None for other engines
    fingerprint  of the samples at --data
    n_samples    the number of samples at --data
    held_out     "a share" of them, or the fingerprint of the samples at --valid
    n_excluded   the number of samples that were left out of these, by --exclude
    """

    recipe: Mapping[str, Any]
    command: Mapping[str, Any]
    device: str
    precision: str
    n_processes: int
    engine: str
    zero: Mapping[str, Any] | None
    fingerprint: str
    n_samples: int
    held_out: str
    n_excluded: int = 0

    def write(self, folder: RunDir) -> None:
        """Write the record with the versions in use, making the run's folder if need be."""
        resolved = {
            "device": self.device,
            "precision": self.precision,
            "processes": self.n_processes,
            "engine": self.engine,
            "deepspeed": self.zero,
        }
        versions = {
            "dalle": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        data = {
            "fingerprint": self.fingerprint,
            "samples": self.n_samples,
            "held_out": self.held_out,
            "excluded": self.n_excluded,
        }

        record = {
            "schema": RECORD_SCHEMA,
            "recipe": self.recipe,
            "command": self.command,
            "resolved": resolved,
            "versions": versions,
            "data": data,
        }
        make_folder(folder.root)
        write_file(folder.recipe, checksummed_json(record))

    @classmethod
    def read(cls, folder: RunDir) -> "RunRecord":
        """Read a run's record; raises DalleError where it is damaged or of another format."""
        try:
            record = load_checksummed_json(folder.recipe, since=RECORD_SCHEMA)
            _check_schema(folder, record["schema"])

            resolved, data = record["resolved"], record["data"]
            return cls(
                recipe=dict(record["recipe"]),
                command=dict(record["command"]),
                device=resolved["device"],
                precision=resolved["precision"],
                n_processes=resolved["processes"],
                engine=resolved["engine"],
                zero=resolved["deepspeed"],
                fingerprint=data["fingerprint"],
                n_samples=data["samples"],
                held_out=data["held_out"],
                n_excluded=data.get("excluded", 0),  # older records lack it
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            hint = "the run can't be resumed; name a new folder"
            raise DalleError(f"{folder.recipe} is damaged: {error}", hint) from error


def _check_schema(folder: RunDir, schema: object) -> None:
    if schema not in READABLE:
        version = f"this version of dalle reads format {RECORD_SCHEMA}"
        hint = "finish the run with the version that began it, or name a new folder with --run"
        raise DalleError(f"{folder.recipe} is of format {schema}, but {version}", hint)


def absolute_source(source: str) -> str:
    """Return what names data, such as a folder or a pattern of shards, as an absolute path.

    What begins like a URL is no path and stays as it is.
    """
    return source if URL.match(source) else os.path.abspath(source)
