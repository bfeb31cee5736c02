"""Where things lie in a run; the only place where its file names are spelt. Knows nothing of their contents."""

import os
from dataclasses import dataclass
from pathlib import Path

from dalle_cli.errors import DalleError, UsageError


def cache_file() -> Path:
    """Name the file, below XDG_CACHE_HOME or ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "dalle" / "embeddings.sqlite"


CONFIG = "config.json"
WEIGHTS = "model.safetensors"
JOB = "job.json"
MANIFEST = "manifest.jsonl"
GRID = "grid.png"
SCORES = "scores.jsonl"
SCORES_TABLE = "scores.csv"
ENCODING = "encoding.json"


@dataclass(frozen=True)
class RunDir:
    """The folder a training command writes, and the one `generate` and `reconstruct` read."""

    root: Path

    @property
    def recipe(self) -> Path:
        """Resolved recipe, versions, seed and data fingerprint."""
        return self.root / "recipe.json"

    @property
    def model(self) -> Path:
        """What inference needs: config and weights."""
        return self.root / "model"

    @property
    def dvae(self) -> Path:
        """A transformer's frozen copy of its dVAE's model folder."""
        return self.root / "dvae"

    @property
    def tokenizer(self) -> Path:
        """A transformer's or CLIP's own copy of its merges."""
        return self.root / "tokenizer" / "merges.json"

    @property
    def checkpoints(self) -> Path:
        """One folder for each checkpoint."""
        return self.root / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """The checkpoint written after so many updates."""
        return self.checkpoints / f"step-{step:08d}"

    @property
    def metrics(self) -> Path:
        """One JSON line for each report."""
        return self.root / "metrics.jsonl"

    def preview(self, step: int) -> Path:
        """The picture of how far the run has come after so many updates."""
        return self.root / "previews" / f"step-{step:08d}.png"

    @property
    def samples(self) -> Path:
        """Where `generate` writes unless told otherwise: one numbered folder for each call."""
        return self.root / "samples"

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing here yet, so that a new run may begin."""
        return not self.root.exists() or not any(self.root.iterdir())

    @property
    def is_run(self) -> bool:
        """Whether a training command has begun here."""
        return self.recipe.is_file()


def check_new_folder(path: Path) -> None:
    """Raise UsageError unless a folder to be written is new or empty."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"{path} already holds something", "name a new folder")


def dvae_model_dir(path: Path) -> Path:
    """Find the model folder of a dVAE's run, or of the copy that a transformer's run keeps; raises like `model_dir`."""
    own_copy = RunDir(path).dvae
    return model_dir(own_copy if own_copy.is_dir() else path)


def model_dir(path: Path) -> Path:
    """Find the model folder in a run, or take the folder itself; raises DalleError where there is none."""
    for folder in (path / "model", path):
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            return folder
    if not path.exists():
        raise DalleError(f"no such run: {path}")
    if RunDir(path).is_run:
        raise DalleError(f"{path} has no model yet", "its training has not reached the first save")
    raise DalleError(f"{path} is not a run", f"a run holds model/{CONFIG} and model/{WEIGHTS}")
