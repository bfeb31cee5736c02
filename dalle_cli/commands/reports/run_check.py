"""Which parts of a run or an export are sound and which are damaged, for `doctor` and `info`.

A part is sound if it is as it was written, by the checksum that it carries or that a manifest
states, and can be read.
"""

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dalle_cli.commands.reports.exports.exported_run import read_export
from dalle_cli.commands.reports.model_text import Row, aligned_rows
from dalle_cli.config import kind_of
from dalle_cli.data.text.known_words import KnownWords
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.errors import DalleError, printable
from dalle_cli.loading import check_model
from dalle_cli.recipe import load_recipe
from dalle_cli.storage.checkpoint_folder import STEP_NAME, check_checkpoint, step_of
from dalle_cli.storage.integrity.checksums import has_checksum
from dalle_cli.storage.metrics_file import check_reports
from dalle_cli.storage.model_about import read_about
from dalle_cli.storage.model_folder import has_checksums, read_model_table
from dalle_cli.storage.run_dir import CONFIG, RunDir, model_dir
from dalle_cli.storage.run_record import RunRecord
from dalle_cli.storage.shipped import shipped_name
from dalle_cli.training.resume import recorded_recipe

READ_CAPTIONS = ("transformer", "clip")  # kinds of models whose runs keep a tokenizer


@dataclass(frozen=True)
class PartCheck:
    """What was found of a part.

    part     its path in the run
    state    "unchecked" if it has no checksum, as of 0.1.0, and is otherwise sound
    problem  what is wrong, "" if nothing is
    hint     what helps against it
    """

    part: str
    state: Literal["sound", "unchecked", "damaged"]
    problem: str = ""
    hint: str = ""


@dataclass(frozen=True)
class _Part:
    """A part, how it is checked, and what helps if it is damaged.

    check            raises OSError or DalleError
    has_checksum     whether it has one, asked of a part that is sound
    """

    path: Path
    check: Callable[[], object]
    hint: str
    has_checksum: Callable[[], bool] = lambda: True


def check_run(run: RunDir, *, with_checkpoints: bool = True) -> list[PartCheck]:
    """Check all parts of a run, an export or a model folder, or all but the checkpoints.

    Raises UsageError if the folder is none of them.
    """
    if not (run.is_run or run.export.is_file() or run.model.is_dir()):
        model_dir(run.root)  # says what is wrong with the folder
    parts = list(_parts(run))
    if with_checkpoints:
        parts += _checkpoints(run)
    checks = [_check(part, run.root) for part in parts]
    if run.clip.is_dir():
        checks += [_below("clip", check) for check in check_run(RunDir(run.clip))]
    return checks


def problems_of(checks: list[PartCheck]) -> list[str]:
    """Return what is wrong with each part that is damaged."""
    return [check.problem for check in checks if check.state == "damaged"]


def check_text(checks: list[PartCheck]) -> str:
    """Return a line for each part, and more for those that are damaged."""
    return aligned_rows(row for check in checks for row in _rows(check))


def raise_if_damaged(root: Path, problems: list[str], hint: str = "") -> None:
    """Raise DalleError with the first problem if there are any.

    hint  what to do; "" for the command that says what helps
    """
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        hint = hint or f"`dalle doctor {shlex.quote(str(root))}` says what helps"
        raise DalleError(f"{printable(str(root))} is damaged: {problems[0]}{more}", hint)


def _rows(check: PartCheck) -> Iterator[Row]:
    state = "sound, but it has no checksum" if check.state == "unchecked" else check.state
    yield f"{printable(check.part)}  ", state
    for line in filter(None, (check.problem, check.hint)):
        yield "", line


def _below(folder: str, check: PartCheck) -> PartCheck:
    return PartCheck(f"{folder}/{check.part}", check.state, check.problem, check.hint)


def _check(part: _Part, root: Path) -> PartCheck:
    name = str(part.path.relative_to(root))
    try:
        part.check()
        return PartCheck(name, "sound" if part.has_checksum() else "unchecked")
    except DalleError as error:
        return PartCheck(name, "damaged", error.message, part.hint)
    except OSError as error:
        problem = f"cannot read {printable(str(part.path))}: {error.strerror}"
        return PartCheck(name, "damaged", problem, part.hint)


def _parts(run: RunDir) -> Iterator[_Part]:
    """Yield the parts that are there, and those that must be there."""
    again = _how_to_get_again(run)
    yield from _records(run, again)

    kind = _kind_of(run)
    saved = any(run.checkpoints.glob("step-*"))
    in_place = not run.model.is_dir() and (run.root / CONFIG).is_file()
    if saved or not run.is_run or run.model.is_dir():
        hint = again
        if saved:
            hint = f"`dalle resume {shlex.quote(str(run.root))}` writes it anew"
        yield _model(run.root if in_place else run.model, hint)

    if run.dvae.is_dir() or (kind == "transformer" and not in_place):
        yield _model(_folder_in(run.dvae), _how_to_get_dvae(run, again))
    if run.tokenizer.is_file() or (kind in READ_CAPTIONS and not in_place):
        yield _Part(
            run.tokenizer,
            lambda: Tokenizer.load(run.tokenizer),
            again,
            lambda: has_checksum(run.tokenizer),
        )
    if run.known_words.is_file():
        yield _Part(
            run.known_words,
            lambda: KnownWords.load(run.known_words),
            "delete it: without it, unknown words are not warned of",
            lambda: has_checksum(run.known_words),
        )
    if run.about.is_file():
        yield _Part(run.about, lambda: read_about(run), "it is written by hand")
    if run.metrics.is_file():
        hint = "nothing else is lost: what can't be read is left out"
        yield _Part(run.metrics, lambda: check_reports(run.metrics), hint)


def _records(run: RunDir, again: str) -> Iterator[_Part]:
    """Yield what a run or an export states of itself."""
    if run.export.is_file():
        yield _Part(run.export, lambda: read_export(run), again, lambda: has_checksum(run.export))
        if run.recipe.is_file():
            name = str(run.recipe)
            yield _Part(
                run.recipe,
                lambda: load_recipe(name, []),
                again,
                lambda: has_checksum(run.recipe),
            )
    elif run.recipe.is_file() or run.checkpoints.is_dir():
        yield _Part(
            run.recipe,
            lambda: recorded_recipe(RunRecord.read(run), run),
            "the run can't be resumed; its model can be used and exported",
            lambda: has_checksum(run.recipe),
        )


def _model(folder: Path, hint: str) -> _Part:
    return _Part(folder, lambda: check_model(folder), hint, lambda: has_checksums(folder))


def _folder_in(dvae: Path) -> Path:
    return dvae / "model" if (dvae / "model").is_dir() else dvae


def _checkpoints(run: RunDir) -> Iterator[_Part]:
    hint = "delete it: the run is resumed from the one before, and later ones don't need it"
    named = [path for path in run.checkpoints.glob("step-*") if STEP_NAME.fullmatch(path.name)]
    for path in sorted(named, key=step_of):
        yield _Part(path, lambda path=path: check_checkpoint(path), hint)  # type: ignore[misc]


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


def _how_to_get_again(run: RunDir) -> str:
    """Return what replaces a part that is nowhere else in the folder."""
    if shipped_name(run.root) is not None:
        return "install dalle again"
    if run.is_run:
        return "copy it from a backup, or train again"
    return "export or import it again, or copy it from a backup"


def _how_to_get_dvae(run: RunDir, again: str) -> str:
    """Return what replaces the copy of a dVAE that a transformer's run keeps."""
    try:
        source = RunRecord.read(run).command.get("dvae")
    except DalleError:
        source = None
    if not run.is_run or not isinstance(source, str):
        return again
    return f"copy config.json and model.safetensors of the dVAE in {printable(source)} there"
