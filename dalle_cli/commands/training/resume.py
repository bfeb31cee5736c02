"""`dalle resume`: a run's own record becomes the command that resumes it, or makes it longer."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dalle_cli.config import Recipe, training_command
from dalle_cli.console import Terminal
from dalle_cli.errors import DalleError, UsageError
from dalle_cli.schedules import extend_recipe
from dalle_cli.storage.checkpoint_folder import checkpoints
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.storage.run_record import RunRecord, absolute_source
from dalle_cli.training.resume import check_is_run, recorded_recipe, remaining_inputs, resuming
from dalle_cli.training.run import TrainOptions


@dataclass(frozen=True)
class ResumePlan:
    """What a training command needs to resume a run.

    inputs  see `remaining_inputs`
    words   the training command that does the same, unless the run is made longer
    about   what becomes of the schedules of a run that is made longer, or ""
    """

    recipe: Recipe
    options: TrainOptions
    inputs: Mapping[str, Path]
    words: tuple[str, ...]
    about: str

    def describe(self, terminal: Terminal) -> None:
        """Print the command that this stands for, or how the run is made longer, if it is."""
        terminal.say(self.about or f"$ dalle {shlex.join(self.words)}")


def plan_resume(
    root: Path, *, data: Sequence[str], device: str, extend: int | None, restart_lr: bool
) -> ResumePlan:
    """Read what a run was begun with; nothing is written.

    data        in place of the recorded `--data`, unless it is empty
    extend      number of updates beyond the recipe's last step, for a finished run
    restart_lr  whether the learning rate restarts for them

    Raises UsageError where the folder holds no run, or one that has not finished is to be extended,
    and DalleError where its record is damaged.
    """
    if restart_lr and extend is None:
        raise UsageError("`--restart-lr` needs `--extend N`")
    folder = RunDir(root)
    check_is_run(folder)
    record = RunRecord.read(folder)
    recipe, about = recorded_recipe(record, folder), ""
    if extend is not None:
        about = _explain_extension(recipe, folder, n_more=extend, restart_lr=restart_lr)
        recipe = extend_recipe(recipe, extend, restart_lr=restart_lr)

    options = _options(record, folder, data=data, device=device, is_extension=extend is not None)
    inputs = remaining_inputs(record, folder)
    words = _words(training_command(recipe.kind), folder, options, inputs=inputs)
    return ResumePlan(recipe, options, inputs, words, about)


def _explain_extension(recipe: Recipe, folder: RunDir, *, n_more: int, restart_lr: bool) -> str:
    """Return what becomes of the schedules; raises UsageError for a run that has not finished."""
    steps, done = recipe.training.steps, max((step for step, _ in checkpoints(folder)), default=0)
    if done < steps:
        message = f"{folder.root} is at step {done:,} of {steps:,}: only a finished run is extended"
        raise UsageError(message, resuming(folder.root))

    hold = "all schedules hold their last values"
    if restart_lr:
        hold += f", except the learning rate's, which runs once more over {n_more:,} steps"
    return f"from step {steps:,} to {steps + n_more:,}: {hold}"


def _options(
    record: RunRecord, folder: RunDir, *, data: Sequence[str], device: str, is_extension: bool
) -> TrainOptions:
    """Return the options that the run was begun with; raises DalleError if they are damaged."""
    command = dict(record.command)
    if data:
        command["data"] = [absolute_source(source) for source in data]
    try:
        return TrainOptions.recorded(command, folder.root, device=device, is_extension=is_extension)
    except (KeyError, TypeError) as error:
        hint = "type the training command again, which renews it"
        raise DalleError(f"{folder.recipe} is damaged: its `command`: {error}", hint) from error


def _words(
    name: str, folder: RunDir, options: TrainOptions, *, inputs: Mapping[str, Path]
) -> tuple[str, ...]:
    """Return the training command that does the same."""
    given = {
        "--valid": options.valid,
        **{f"--{name.replace('_', '-')}": path for name, path in inputs.items()},
        "--deepspeed": options.deepspeed,
        "--log": options.log,
        "--run": folder.root,
        "--device": None if options.device == "auto" else options.device,
    }
    pairs = [(option, str(value)) for option, value in given.items() if value is not None]
    others = [word for pair in pairs for word in pair]
    return (name, str(folder.recipe), *options.data_words, *others)
