"""The parts of a run or an export that can be damaged, and how each is checked."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dalle_cli.commands.reports.damage import remedies
from dalle_cli.commands.reports.damage.run_part import (
    RunPart,
    file_part,
    model_part,
    vocabulary_parts,
)
from dalle_cli.commands.reports.exports.exported_run import read_export
from dalle_cli.config import TRAINED_WITH_CLIP, kind_of
from dalle_cli.data.text.known_words import KnownWords
from dalle_cli.errors import DalleError
from dalle_cli.loading.prior_variances import read_variances
from dalle_cli.recipe import load_recipe
from dalle_cli.storage.checkpoint_folder import STEP_NAME, check_checkpoint, step_of
from dalle_cli.storage.integrity.checksums import has_checksum
from dalle_cli.storage.metrics_file import check_reports
from dalle_cli.storage.model_about import read_about
from dalle_cli.storage.model_folder import read_model_table
from dalle_cli.storage.run_dir import CONFIG, RunDir
from dalle_cli.storage.run_record import RunRecord


def run_parts(run: RunDir) -> Iterator[RunPart]:
    """Yield the parts that are there, and those that must be there, but for checkpoints."""
    yield from _records(run)
    if not run.model.is_dir() and (run.root / CONFIG).is_file():
        yield model_part(run.root, remedies.how_to_get_again(run))  # a model folder by itself
        return

    has_saved = any(run.checkpoints.glob("step-*"))
    if has_saved or not run.is_run or run.model.is_dir():
        yield model_part(run.model, remedies.how_to_get_model(run, has_saved=has_saved))
    kind = _kind_of(run)
    if run.dvae.is_dir() or kind == "transformer":
        inside = run.dvae / "model"  # where someone put a whole run there
        yield model_part(inside if inside.is_dir() else run.dvae, remedies.how_to_get_dvae(run))
    if run.codec.is_dir() or kind == "prior-autoregressive":
        yield model_part(run.codec, remedies.how_to_get_again(run))
    # what is there is checked as a run; a prior that a decoder's export brings shares that one's
    if kind in TRAINED_WITH_CLIP and not run.clip.is_dir() and not _is_joined(run):
        yield model_part(RunDir(run.clip).model, remedies.how_to_get_clip(run))
    yield from vocabulary_parts(run, kind)

    if run.known_words.is_file():
        yield file_part(run.known_words, partial(KnownWords.load, run.known_words), run)
    if run.variances.is_file():
        yield file_part(run.variances, partial(read_variances, run), run)
    if run.about.is_file():
        yield RunPart(run.about, partial(read_about, run), remedies.ABOUT)
    if run.metrics.is_file():
        yield RunPart(run.metrics, partial(check_reports, run.metrics), remedies.METRICS)


def checkpoint_parts(run: RunDir) -> Iterator[RunPart]:
    """Yield the checkpoints, oldest first; what a crash has left is none."""
    named = [path for path in run.checkpoints.glob("step-*") if STEP_NAME.fullmatch(path.name)]
    for path in sorted(named, key=step_of):
        yield RunPart(path, partial(_check_kept, path), remedies.CHECKPOINT)


def _is_joined(run: RunDir) -> bool:
    whole = RunDir(run.root.absolute().parent)
    return whole.export.is_file() and whole.prior == run.root.absolute()


def _check_kept(path: Path) -> None:
    """Check a checkpoint, unless a training that goes on has removed it meanwhile."""
    try:
        check_checkpoint(path)
    except DalleError:
        if path.exists():
            raise


def _records(run: RunDir) -> Iterator[RunPart]:
    """Yield what a run or an export states of itself."""
    if run.export.is_file():
        yield file_part(run.export, partial(read_export, run), run)
        if run.recipe.is_file():
            yield file_part(run.recipe, partial(load_recipe, str(run.recipe), []), run)
    elif run.recipe.is_file() or run.checkpoints.is_dir():
        has_one = partial(has_checksum, run.recipe)
        yield RunPart(run.recipe, partial(_check_record, run), remedies.RECORD, has_one)


def _check_record(run: RunDir) -> None:
    RunRecord.read(run)
    load_recipe(str(run.recipe), [])


def _kind_of(run: RunDir) -> str | None:
    """Return the kind of the model, by what can still be read; None if nothing can."""
    try:
        return kind_of(read_model_table(run.model))
    except DalleError:
        pass
    try:
        return load_recipe(str(run.recipe), []).kind
    except DalleError:
        return None
