"""`dalle train`: from captioned pictures to a model that generates them, sized by what is there.

It plans, prints the commands that carry the plan out, and runs them. An interrupted one resumes
where it stopped.
"""

import shlex

from dalle_cli.commands.reports.planning.chain_results import save_chain_grid
from dalle_cli.commands.reports.planning.plan_text import plan_facts, plan_text
from dalle_cli.commands.subcommands import command_line, option_words, run_subcommand
from dalle_cli.console import Terminal
from dalle_cli.runtime.devices import choose_device
from dalle_cli.storage.job_folder import JobFolder
from dalle_cli.storage.run_dir import GRID
from dalle_cli.training.planning.chain import (
    Chain,
    ChainFolder,
    ChainOptions,
    Command,
    chain_job,
    chain_of,
)
from dalle_cli.training.planning.planner import HOURS, make_plan
from dalle_cli.training.resume import resuming
from dalle_cli.training.run import TrainOptions
from dalle_cli.training.trackers.choice import check_tracker


def run_train(training: TrainOptions, chain: ChainOptions, terminal: Terminal) -> None:
    """Plan a training and carry it out; raises DalleError for whatever a user can cause."""
    root, files, folder = training.run, ChainFolder(training.run), JobFolder.open(training.run)
    job = chain_job(training, chain)
    folder.check(job, is_complete=True)
    if training.log is not None:
        check_tracker(training.log)

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
    return files.commands(
        planned,
        training.data[0],
        reading=option_words(_reading(training)),
        machine=option_words(machine),
        logging=option_words({"--log": training.log}),
    )


def _reading(training: TrainOptions) -> dict[str, str | None]:
    """Return the options that belong to the data."""
    return {
        "--image-column": training.image_column,
        "--caption-column": training.caption_column,
        "--exclude": None if training.exclude is None else str(training.exclude),
    }


def _what_next(files: ChainFolder, training: TrainOptions, chain: ChainOptions) -> str:
    """Return what to try after the pictures."""
    hours = chain.hours or HOURS[choose_device(training.device).type]
    longer = {"--run": f"{files.root}-longer", "--hours": f"{2 * hours:g}", "--like": chain.like}
    words = ["train", training.data[0], *option_words(longer | _reading(training))]
    generate = shlex.join(["generate", str(files.run("transformer"))])
    return (
        f'next: dalle {generate} "a caption" -n 8 --show\n'
        f"better: dalle {shlex.join(words)}\n"
        f"        more pictures, or changes of {files.root}/recipes for the commands above"
    )
