"""Paths of a run's files and of the user's cache folder; the only place that spells their names.

Knows nothing of what the files hold.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dalle_cli.errors import DalleError, UsageError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
JOB = "job.json"
MANIFEST = "manifest.jsonl"
GRID = "grid.png"
SCORES = "scores.jsonl"
SCORES_TABLE = "scores.csv"
ENCODING = "encoding.json"


def cache_folder() -> Path:
    """Return the user's cache folder: `dalle` below XDG_CACHE_HOME, or below ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "dalle"


@dataclass(frozen=True)
class RunDir:
    """The folder that a training command writes and that `generate` and `reconstruct` read."""

    root: Path

    @property
    def recipe(self) -> Path:
        """Resolved recipe, versions, seed and data fingerprint."""
        return self.root / "recipe.json"

    @property
    def model(self) -> Path:
        """Config and weights, which is all that inference needs."""
        return self.root / "model"

    @property
    def dvae(self) -> Path:
        """The frozen copy of its dVAE's model folder that a transformer's run keeps."""
        return self.root / "dvae"

    @property
    def tokenizer(self) -> Path:
        """The copy of its tokenizer's merges that a transformer's or a CLIP's run keeps."""
        return self.root / "tokenizer" / "merges.json"

    @property
    def checkpoints(self) -> Path:
        """A folder for each checkpoint."""
        return self.root / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """The checkpoint written after a number of steps."""
        return self.checkpoints / f"step-{step:08d}"

    @property
    def metrics(self) -> Path:
        """A JSON line for each report."""
        return self.root / "metrics.jsonl"

    def preview(self, step: int) -> Path:
        """The preview picture written after a number of steps."""
        return self.root / "previews" / f"step-{step:08d}.png"

    @property
    def samples(self) -> Path:
        """The default output of `generate`: a numbered folder for each call."""
        return self.root / "samples"

    @property
    def is_empty(self) -> bool:
        """Whether the folder is absent or empty, so that a new run may start in it."""
        return not self.root.exists() or not any(self.root.iterdir())

    @property
    def is_run(self) -> bool:
        """Whether a training command has started here."""
        return self.recipe.is_file()


def check_new_folder(path: Path) -> None:
    """Raise UsageError unless an output folder is absent or empty."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"{path} already holds something", "name a new folder")


class DallePaths(NamedTuple):
    """Where a transformer's run or export keeps what generates pictures."""

    transformer: Path
    dvae: Path
    tokenizer: Path
    recipe: Path


def dalle_paths(run: Path) -> DallePaths:
    """Resolve the paths of a transformer's run; raises DalleError like `model_dir`."""
    files = RunDir(run)
    return DallePaths(model_dir(run), dvae_model_dir(run), files.tokenizer, files.recipe)


def dvae_model_dir(path: Path) -> Path:
    """Return the model folder of a dVAE's run, or of the copy that a transformer's run keeps.

    Raises DalleError like `model_dir`.
    """
    copy = RunDir(path).dvae
    return model_dir(copy if copy.is_dir() else path)


def model_dir(path: Path) -> Path:
    """Return the model folder of a run, or the path itself if it is a model folder.

    Raises DalleError if there is no model.
    """
    for folder in (path / "model", path):
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            return folder

    if not path.exists():
        raise DalleError(f"no such run: {path}")
    if RunDir(path).is_run:
        raise DalleError(f"{path} has no model yet", "its training has not reached the first save")
    raise DalleError(f"{path} is not a run", f"a run holds model/{CONFIG} and model/{WEIGHTS}")
