"""`dalle train`: from captioned pictures to a model that generates them, sized by what is there.

It plans, prints the commands that carry the plan out, and runs them. An interrupted one resumes
where it stopped.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from dalle_cli.commands.reports.planning.chain_results import save_chain_grid
from dalle_cli.commands.reports.planning.plan_text import plan_facts, plan_text
from dalle_cli.commands.subcommands import command_line, option_words, run_subcommand
from dalle_cli.console import Terminal
from dalle_cli.runtime.devices import choose_device
from dalle_cli.storage.job_folder import JobFolder
from dalle_cli.storage.run_dir import GRID, JOB
from dalle_cli.storage.run_record import absolute_source
from dalle_cli.training.planning.chain import Chain, ChainFolder, Command, chain_of
from dalle_cli.training.planning.planner import HOURS, make_plan
from dalle_cli.training.resume import resuming
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
    training = TrainOptions(
        data=(job.recall("data", ""),),
        run=root,
        image_column=job.recall("image_column", None),
        caption_column=job.recall("caption_column", None),
    )
    chain = {name: job.recall(name, None) for name in ("hours", "like", "gpus")}
    return training, ChainOptions(**chain)


def run_train(training: TrainOptions, chain: ChainOptions, terminal: Terminal) -> None:
    """Plan a training and carry it out; raises DalleError for whatever a user can cause."""
    root, files, folder = training.run, ChainFolder(training.run), JobFolder.open(training.run)
    job = {
        "command": "train",
        "data": absolute_source(training.data[0]),
        "image_column": training.image_column,
        "caption_column": training.caption_column,
        "hours": chain.hours,
        "like": chain.like,
        "gpus": chain.gpus,
    }
    folder.check(job, is_complete=True)

    measured = None
    if not files.plan.is_file():
        measured = make_plan(
            training, hours=chain.hours, like=chain.like, n_devices=chain.gpus or 1
        )
        for doubt, hint in measured.doubts():
            terminal.warn(f"{doubt}\nhint: {hint}")
    planned = chain_of(measured.plan, measured.captions) if measured else files.read()

    commands = _commands(files, planned, training, chain)
    text = plan_text(measured) if measured else f"{root} has its plan; these are its commands"
    if chain.plan_only:
        lines = [text, "", *map(command_line, commands), f"nothing written to {root}"]
        terminal.result("\n".join(lines), plan_facts(measured) if measured else {})
        return
    terminal.say(text)
    with folder.writing(job):
        if measured is not None:
            files.write(measured.plan, measured.captions)
        for command in commands:
            run_subcommand(command, terminal, hint=resuming(root))
        save_chain_grid(files, planned.groups)
    terminal.say(_what_next(files, training, chain))
    terminal.result(str(root / GRID), {"run": str(root), "grid": str(root / GRID)})


def _commands(
    files: ChainFolder, planned: Chain, training: TrainOptions, chain: ChainOptions
) -> list[Command]:
    gpus = None if chain.gpus is None else str(chain.gpus)
    machine = {"--device": None if training.device == "auto" else training.device, "--gpus": gpus}
    columns, source = option_words(_columns(training)), training.data[0]
    return files.commands(planned, source, columns=columns, machine=option_words(machine))


def _columns(training: TrainOptions) -> dict[str, str | None]:
    return {"--image-column": training.image_column, "--caption-column": training.caption_column}


def _what_next(files: ChainFolder, training: TrainOptions, chain: ChainOptions) -> str:
    """Return what to try after the pictures."""
    hours = chain.hours or HOURS[choose_device(training.device).type]
    longer = {"--run": f"{files.root}-longer", "--hours": f"{2 * hours:g}", "--like": chain.like}
    words = ["train", training.data[0], *option_words(longer | _columns(training))]
    generate = shlex.join(["generate", str(files.run("transformer"))])
    return (
        f'next: dalle {generate} "a caption" -n 8 --show\n'
        f"better: dalle {shlex.join(words)}\n"
        f"        more pictures, or changes of {files.root}/recipes for the commands above"
    )
