"""How a run is resumed: whether its recipe is the same, and the checkpoint it starts from.

Checking a folder changes nothing in it. Knows nothing of models, nor of how they train.
"""

import shlex
from pathlib import Path

from dalle_cli.config import Recipe
from dalle_cli.console import Terminal
from dalle_cli.errors import DalleError, UsageError
from dalle_cli.recipe import flat_tables, parse_recipe
from dalle_cli.schedules import fix_schedules, follows_steps
from dalle_cli.storage.checkpoint_folder import check_checkpoint, checkpoints
from dalle_cli.storage.job_folder import JobFolder
from dalle_cli.storage.run_dir import JOB, WEIGHTS, RunDir
from dalle_cli.storage.run_record import RunRecord
from dalle_cli.training.checkpoint import incomplete_checkpoints, load_checkpoint
from dalle_cli.training.engines.engine import Engine, EngineState, ModelT

# keys that may differ when a run is resumed; a table ends in a dot
FREE_TO_CHANGE = ("training.steps", "data.max_bad_share", "optimizer.on_spike", "runtime.")


def check_same_recipe(record: RunRecord, folder: RunDir, recipe: Recipe) -> None:
    """Raise UsageError, listing the keys that differ, if the run began with another recipe.

    Schedules are compared by their lengths in updates. Another length of the run is refused where
    it would change them.
    """
    begun = recorded_recipe(record, folder)
    steps = begun.training.steps
    if steps != recipe.training.steps and (follows_steps(begun) or follows_steps(recipe)):
        raise UsageError(
            f"{folder.root} is a run of {steps:,} steps: with another `training.steps`, "
            f"{recipe.training.steps:,}, its schedules would change",
            f"{resuming(folder.root)}; with `--extend N` for N more steps",
        )

    before, now = (
        flat_tables(fix_schedules(begun).model_dump()),
        flat_tables(fix_schedules(recipe).model_dump()),
    )
    differing = [
        key
        for key in sorted(before.keys() | now.keys())
        if repr(before.get(key)) != repr(now.get(key)) and not key.startswith(FREE_TO_CHANGE)
    ]
    if differing:
        lines = [
            f"  `{key}`: {before.get(key, 'absent')} then, {now.get(key, 'absent')} now"
            for key in differing
        ]
        message = "\n".join([f"{folder.root} was begun with another recipe:", *lines])
        begin = f"`--init-from {shlex.quote(str(folder.root))}` with a new --run"
        hint = f"{resuming(folder.root)}; {begin} begins another with its weights"
        raise UsageError(message, hint)


def recorded_recipe(record: RunRecord, folder: RunDir) -> Recipe:
    """Return the recipe of a run's record; raises DalleError where it is damaged."""
    try:
        return parse_recipe(dict(record.recipe), source=str(folder.recipe))
    except UsageError as error:
        hint = "the run can't be resumed; name a new folder"
        raise DalleError(f"{folder.recipe} is damaged: {error.message}", hint) from error


def remaining_inputs(record: RunRecord, folder: RunDir) -> dict[str, Path]:
    """Return the inputs besides data that a resumed run needs, by name: what it has no copy of.

    The run itself is named for the dVAE, or the CLIP, that it keeps. A file of captions for
    previews is left out where it is no longer there.
    """
    names = ("dvae", "clip", "tokenizer", "preview_captions")
    given = {name: record.command.get(name) for name in names}
    inputs = {name: Path(path) for name, path in given.items() if isinstance(path, str)}

    if folder.tokenizer.is_file():
        inputs.pop("tokenizer", None)
    if (folder.dvae / WEIGHTS).is_file():
        inputs["dvae"] = folder.root
    if "clip" in inputs and (RunDir(folder.clip).model / WEIGHTS).is_file():
        inputs["clip"] = folder.root
    if "preview_captions" in inputs and not inputs["preview_captions"].is_file():
        del inputs["preview_captions"]
    return inputs


def resuming(root: Path) -> str:
    """Return a hint: the command that resumes a run."""
    return f"`dalle resume {shlex.quote(str(root))}` resumes it"


def check_is_run(folder: RunDir) -> None:
    """Raise UsageError unless the folder holds the run of a training command.

    Folders of other commands are told apart here, by the `command` in their `job.json`.
    """
    if folder.is_run:
        return
    if folder.is_empty:
        raise UsageError(f"no such run: {folder.root}")
    hint = "a run holds `recipe.json`"
    if folder.export.is_file():
        hint = f"it is an export: `--init-from {shlex.quote(str(folder.root))}` trains from it"
    elif (folder.root / JOB).is_file():
        command = JobFolder.open(folder.root).recall("command", "generate")
        hint = f"to resume it, run the same `dalle {command}` command again"
    raise UsageError(f"{folder.root} is not a run of a training command", hint)


def check_folder(
    folder: RunDir, recipe: Recipe, *, resume: str, is_extension: bool
) -> RunRecord | None:
    """Check that a folder may be written, and return the record of the run in it, if there is one.

    is_extension  whether the recipe is that of the run, made longer

    Raises UsageError, touching nothing, for a folder of other files, for a run under `never`, or
    for a run with another recipe.
    """
    root = folder.root
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is a file, not a folder")
    if folder.is_empty:
        return None
    if not folder.is_run:
        raise UsageError(f"{root} holds files but no run", "name a new folder with --run")
    if resume == "never":
        hint = "name a new folder, or leave out `--resume never`"
        raise UsageError(f"{root} already holds a run", hint)

    record = RunRecord.read(folder)
    if not is_extension:
        check_same_recipe(record, folder, recipe)
    return record


def starting_checkpoint(folder: RunDir, resume: str, terminal: Terminal) -> Path | None:
    """Return the checkpoint to resume from: the one named, or the newest intact one.

    Returns None for a new run. Raises DalleError where all checkpoints are corrupt.
    """
    if resume not in ("auto", "never"):
        return _named_checkpoint(folder, Path(resume))

    for path in incomplete_checkpoints(folder):
        terminal.warn(f"ignored an incomplete checkpoint: {path}")
    saved = checkpoints(folder)
    for _, path in reversed(saved):
        try:
            check_checkpoint(path)
        except DalleError as error:
            terminal.warn(f"ignored a {error.message}")
        else:
            return path

    if saved:
        hint = "name a new folder with --run to start again"
        raise DalleError(f"every checkpoint of {folder.root} is corrupt", hint)
    return None


def _named_checkpoint(folder: RunDir, path: Path) -> Path:
    """Return a checkpoint of this run if no later ones exist: they would belong to another history.

    Raises UsageError where they do, or where the path is not a checkpoint of this run.
    """
    steps = {saved.resolve(): step for step, saved in checkpoints(folder)}
    if path.resolve() not in steps:
        hint = f"its checkpoints are in {folder.checkpoints}"
        for other in (path, path.parent.parent):
            if other.resolve() != folder.root.resolve() and RunDir(other).is_run:
                root = shlex.quote(str(other))
                hint = f"`--init-from {root}` begins a new run with the weights of that one"
        raise UsageError(f"no such checkpoint of {folder.root}: {path}", hint)

    later = [step for step in steps.values() if step > steps[path.resolve()]]
    if later:
        message = f"{folder.root} holds later checkpoints, up to step {max(later)}"
        raise UsageError(message, "move them away first")
    check_checkpoint(path)
    return path


def restore_engine(
    engine: Engine[ModelT], checkpoint: Path | None, terminal: Terminal
) -> EngineState:
    """Restore an engine from a checkpoint, if there is one to resume from, and return its state.

    Raises DalleError where the checkpoint is corrupt or does not fit the engine's model.
    """
    if checkpoint is None:
        return EngineState({}, {})

    state = load_checkpoint(checkpoint)
    try:
        engine.restore(state)
    except (ValueError, KeyError) as error:
        raise DalleError(f"the checkpoint does not fit this run: {error}") from error
    terminal.say(f"resumed after step {engine.step}")
    return state
