"""`dalle train`: from captioned pictures to a model that generates them, sized by what is there.

It plans, prints the commands that carry the plan out, and runs them. An interrupted one resumes
where it stopped.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from dalle_cli.commands.reports.planning.chain_results import save_chain_grid
from dalle_cli.commands.reports.planning.plan_text import plan_facts, plan_text
from dalle_cli.commands.subcommands import command_line, run_subcommand
from dalle_cli.console import Terminal
from dalle_cli.storage.job_folder import JobFolder
from dalle_cli.storage.run_dir import GRID, JOB
from dalle_cli.storage.run_record import absolute_source
from dalle_cli.training.planning.chain import Chain, ChainFolder, Command, chain_of
from dalle_cli.training.planning.planner import make_plan
from dalle_cli.training.run import TrainOptions


@dataclass(frozen=True)
class ChainOptions:
    """What `dalle train` has besides the options of a training command.

    hours  for everything; None: what is usual for the device
    like   the name of shipped recipes whose models are trained; None: models are chosen
    """

    hours: float | None = None
    like: str | None = None
    gpus: int | None = None
    plan_only: bool = False


def recorded_training(root: Path) -> tuple[TrainOptions, ChainOptions] | None:
    """Return what `dalle train` was begun with in a folder; None if another command wrote it."""
    if not (root / JOB).is_file():
        return None
    job = JobFolder.open(root)
    if job.recall("command", "generate") != "train":
        return None
    image_column, caption_column = job.recall("columns", [None, None])
    training = TrainOptions(
        data=(job.recall("data", ""),),
        run=root,
        image_column=image_column,
        caption_column=caption_column,
    )
    return training, ChainOptions(hours=job.recall("hours", None), like=job.recall("like", None))


def run_train(training: TrainOptions, chain: ChainOptions, terminal: Terminal) -> None:
    """Plan a training and carry it out; raises DalleError for whatever a user can cause."""
    root, files = training.run, ChainFolder(training.run)
    folder = JobFolder.open(root)
    job = {
        "command": "train",
        "data": absolute_source(training.data[0]),
        "columns": [training.image_column, training.caption_column],
        "hours": chain.hours,
        "like": chain.like,
    }
    folder.check(job, is_complete=True)

    if files.plan.is_file():
        planned = files.read()
    else:
        measured = make_plan(
            training, hours=chain.hours, like=chain.like, n_devices=chain.gpus or 1
        )
        planned = chain_of(measured.plan, measured.captions)
        terminal.say(plan_text(measured))
        if chain.plan_only:
            for command in _commands(files, planned, training, chain):
                terminal.say(command_line(command))
            terminal.result(f"nothing written to {root}", plan_facts(measured))
            return
        folder.begin(job)
        files.write(measured.plan, measured.captions)

    for command in _commands(files, planned, training, chain):
        hint = f"`dalle resume {shlex.quote(str(root))}` resumes it"
        run_subcommand(command, terminal, hint=hint)
    save_chain_grid(files, planned.groups)
    terminal.say(_what_next(files, training, chain))
    terminal.result(str(root / GRID), {"run": str(root), "grid": str(root / GRID)})


def _commands(
    files: ChainFolder, planned: Chain, training: TrainOptions, chain: ChainOptions
) -> list[Command]:
    columns = {"--image-column": training.image_column, "--caption-column": training.caption_column}
    gpus = None if chain.gpus is None else str(chain.gpus)
    machine = {"--device": None if training.device == "auto" else training.device, "--gpus": gpus}
    return files.commands(
        planned, training.data[0], columns=_words(columns), machine=_words(machine)
    )


def _words(options: dict[str, str | None]) -> list[str]:
    return [word for name, value in options.items() if value for word in (name, value)]


def _what_next(files: ChainFolder, training: TrainOptions, chain: ChainOptions) -> str:
    """Return what to try after the pictures."""
    root, transformer = shlex.quote(str(files.root)), shlex.quote(str(files.run("transformer")))
    longer = f"--hours {2 * chain.hours:g}" if chain.hours else "--hours 1"
    data = shlex.quote(training.data[0])
    return "\n".join(
        [
            f'next: dalle generate {transformer} "a caption" -n 8 --show',
            f"better: dalle train {data} --run {root}-longer {longer}",
            f"        more pictures, or changes of {root}/recipes for the commands above",
        ]
    )
