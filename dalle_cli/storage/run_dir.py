"""Paths of a run's files and of the user's cache folder; the only place that spells their names.

Knows nothing of what the files hold, apart from the kind of a model, by which it suggests runs
where the one that was named is not there.
"""

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dalle_cli.errors import DalleError, UsageError, printable
from dalle_cli.storage.shipped import shipped_models, suggest_models
from dalle_cli.storage.small_files import load_json

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
JOB = "job.json"
MANIFEST = "manifest.jsonl"
GRID = "grid.png"
GALLERY = "index.html"  # what a web server shows of a folder
SCORES = "scores.jsonl"
SCORES_TABLE = "scores.csv"
ENCODING = "encoding.json"
EMBEDDINGS = "embeddings.json"
EVALUATION = "evaluation.json"
UNFINISHED = ".unfinished"  # ends the name of a folder that is being written
NO_CACHE = "there is no home folder, and XDG_CACHE_HOME is not set"
MOST_SUGGESTED = 8  # runs in a message


def cache_folder() -> Path | None:
    """Return the user's cache folder: `dalle` below XDG_CACHE_HOME, or below ~/.cache.

    It is None where neither is set and the user has no home: `~` would be a folder right here.
    """
    if root := os.environ.get("XDG_CACHE_HOME"):
        return Path(root) / "dalle"
    home = os.path.expanduser("~")
    return Path(home) / ".cache" / "dalle" if os.path.isabs(home) else None


def check_hub_cache() -> None:
    """Raise DalleError if libraries of the hub would make a cache folder called `~` right here."""
    is_set = any(os.environ.get(name) for name in ("HF_HOME", "XDG_CACHE_HOME"))
    if cache_folder() is None and not is_set:
        raise DalleError(NO_CACHE, "set HF_HOME to a folder for what is fetched from the hub")


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
    def clip(self) -> Path:
        """The CLIP that an export of a transformer may bring, and that a prior's or a decoder's run
        keeps: its `model/` and its vocabulary."""
        return self.root / "clip"

    @property
    def prior(self) -> Path:
        """The prior that an export of a decoder may bring."""
        return self.root / "prior"

    @property
    def codec(self) -> Path:
        """The codec of an autoregressive prior, as a model folder."""
        return self.root / "codec"

    @property
    def variances(self) -> Path:
        """The variances of a diffusion prior's reverse process, measured when it was trained."""
        return self.root / "variances.json"

    @property
    def tokenizer(self) -> Path:
        """The copy of its tokenizer's merges that a transformer's or a CLIP's run keeps."""
        return self.root / "tokenizer" / "merges.json"

    @property
    def known_words(self) -> Path:
        """The words of the captions that a transformer was trained on."""
        return self.root / "tokenizer" / "words.json"

    @property
    def export(self) -> Path:
        """What an export was made from, and the held-out figures of its model."""
        return self.root / "export.json"

    @property
    def about(self) -> Path:
        """What its author says of a model; written by hand."""
        return self.root / "about.toml"

    @property
    def model_card(self) -> Path:
        """What an export is, for people."""
        return self.root / "README.md"

    @property
    def onnx(self) -> Path:
        """The discrete VAE of an export as ONNX graphs."""
        return self.root / "onnx"

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

    @property
    def logged(self) -> Path:
        """How far each tracker has the run's figures."""
        return self.root / "logged.json"

    def preview(self, step: int) -> Path:
        """The preview picture written after a number of steps."""
        return self.root / "previews" / f"step-{step:08d}.png"

    @property
    def samples(self) -> Path:
        """The default output of `generate`: a numbered folder for each call."""
        return self.root / "samples"

    @property
    def evaluations(self) -> Path:
        """The default output of `evaluate`: a numbered folder for each evaluation."""
        return self.root / "evaluations"

    @property
    def is_empty(self) -> bool:
        """Whether the folder is absent or empty, so that a new run may start in it."""
        return is_vacant(self.root, self.recipe.name)

    @property
    def is_run(self) -> bool:
        """Whether a training command has started here; an export has a recipe, too."""
        return self.recipe.is_file() and not self.export.is_file()


def is_vacant(folder: Path, first_file: str) -> bool:
    """Return whether a folder is absent or holds nothing, but perhaps a first file cut short.

    first_file  the name of what a command writes first, by `atomic_write`
    """
    return not folder.exists() or {path.name for path in folder.iterdir()} <= {f".{first_file}"}


def check_new_folder(path: Path) -> None:
    """Raise UsageError unless an output folder is absent or empty.

    It may hold what `atomic_folder` left there when it was killed.
    """
    if path.is_symlink() and not path.exists():
        raise UsageError(f"{path} is a link to nothing", "name a new folder")
    if path.exists() and not (
        path.is_dir() and {file.name for file in path.iterdir()} <= {UNFINISHED}
    ):
        raise UsageError(f"{path} already holds something", "name a new folder")


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Return the last part of each path, with as many more as tell them apart."""
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(set(paths)):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]


class DallePaths(NamedTuple):
    """Where a transformer's run or export keeps what generates pictures."""

    transformer: Path
    dvae: Path
    tokenizer: Path
    recipe: Path


def dalle_paths(run: Path) -> DallePaths:
    """Resolve the paths of a transformer's run; raises DalleError like `model_dir`."""
    files = RunDir(run)
    transformer = model_dir(run, "transformer")
    return DallePaths(transformer, dvae_model_dir(run), files.tokenizer, files.recipe)


def dvae_model_dir(path: Path) -> Path:
    """Return the model folder of a dVAE's run, or of the copy that a transformer's run keeps.

    Raises DalleError like `model_dir`.
    """
    return model_dir(part_of(path, "dvae"), "dvae")


def part_of(path: Path, kind: str) -> Path:
    """Return the folder of the dVAE or the CLIP that a run or an export holds, by its kind.

    Returns the path itself where it holds none, or the kind is another.
    """
    part = {"dvae": RunDir(path).dvae, "clip": RunDir(path).clip}.get(kind)
    return path if part is None or not part.is_dir() else part


def model_dir(path: Path, kind: str | None = None) -> Path:
    """Return the model folder of a run, or the path itself if it is a model folder.

    kind  of model that is wanted: messages suggest its runs first

    Raises UsageError if there is no such run, and DalleError if it has no model yet.
    """
    for folder in (path / "model", path):
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            return folder

    if not path.exists():
        nearby = suggest_runs(path.parent, kind, like=path.name)
        hints = (nearby or "a run is what a training command wrote", suggest_models(str(path)))
        raise UsageError(f"no such run: {path}", "; ".join(filter(None, hints)))
    if RunDir(path).is_run:
        raise DalleError(f"{path} has no model yet", "its training has not reached the first save")
    if str(path) in shipped_models():
        hint = f"`{path}` is a shipped model where nothing else has this name: name it elsewhere"
    else:
        hint = suggest_runs(path, kind) or f"a run holds model/{CONFIG} and model/{WEIGHTS}"
    raise UsageError(f"{path} is not a run", hint)


def stated_kind(run: Path) -> str:
    """Return the kind of a run's model, as its config states it; "" where there is none."""
    configs = (folder / CONFIG for folder in (run / "model", run))
    return next((_kind_in(config) for config in configs if config.is_file()), "")


def suggest_runs(folder: Path, kind: str | None, *, like: str = "") -> str:
    """Name the runs inside a folder with their kinds, as a hint; "" if there are none.

    kind  of model that is wanted, whose runs come first
    like  a name that was mistyped, perhaps: runs of similar names come first
    """
    found: dict[Path, str] = {}
    for pattern in (f"*/model/{CONFIG}", f"*/*/model/{CONFIG}"):
        found |= {config.parents[1]: _kind_in(config) for config in folder.glob(pattern)}

    similar = difflib.get_close_matches(like, [run.name for run in found], n=MOST_SUGGESTED)
    order = sorted(found, key=lambda run: (found[run] != kind, run.name not in similar, run))
    names = [f"{printable(str(run))} ({found[run]})" for run in order[:MOST_SUGGESTED]]
    if len(order) > MOST_SUGGESTED:
        names.append(f"and {len(order) - MOST_SUGGESTED} more")
    return f"{printable(str(folder))} holds these runs: {', '.join(names)}" if names else ""


def _kind_in(config: Path) -> str:
    """Read the kind of a model, or "damaged"."""
    try:
        return printable(str(load_json(config)["kind"]))
    except (OSError, ValueError, KeyError, TypeError):
        return "damaged"
