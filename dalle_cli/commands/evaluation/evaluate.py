"""`dalle evaluate`: how good a run is on held-out data, or which of several is the best."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from dalle_cli.commands.evaluation.evaluation_table import evaluation_table
from dalle_cli.console import Terminal
from dalle_cli.errors import printable
from dalle_cli.evaluation.evaluation_folder import (
    Evaluation,
    EvaluationFolder,
    find_evaluation_folder,
)
from dalle_cli.evaluation.judges import Judges, load_judges
from dalle_cli.evaluation.measuring import measure_all, protocol_differences
from dalle_cli.evaluation.parts.measurement import Measurement
from dalle_cli.evaluation.plan import EvaluationSettings, kind_of_run, plan_evaluation
from dalle_cli.evaluation.sampling import generate_samples
from dalle_cli.runtime.devices import open_device
from dalle_cli.runtime.processes.process_group import init_process_group
from dalle_cli.runtime.signals import StopRequested
from dalle_cli.storage.job_folder import JobFolder
from dalle_cli.storage.run_dir import EVALUATION, distinct_names


@dataclass(frozen=True)
class EvaluateOptions:
    """The command line of `evaluate`, but for what decides about the figures alone.

    out  None: a numbered folder in each run; several runs have folders of their names in it
    """

    runs: list[Path]
    device: str
    precision: str
    out: Path | None


def run_evaluate(
    options: EvaluateOptions, settings: EvaluationSettings, terminal: Terminal
) -> None:
    """Measure runs on held-out pairs and, for transformers, by the pictures that they generate.

    The same command resumes what it did not finish. Several processes generate pictures together,
    those of all runs first, so that none waits while the main one measures.
    """
    try:
        measured = _evaluate(options, settings, terminal)
    except StopRequested:
        terminal.say("to resume, run the same command")
        raise

    evaluations = [evaluation for _, evaluation in measured]
    if not evaluations:
        return
    for evaluation in evaluations:
        for warning in evaluation.warnings:
            terminal.warn(f"{printable(evaluation.run)}: {warning}")
    for difference in protocol_differences(evaluations):
        terminal.warn(difference)
    for folder, _ in measured:
        terminal.say(f"written: {folder / EVALUATION}")
    facts = [{"out": str(folder), **evaluation.model_dump()} for folder, evaluation in measured]
    terminal.result(evaluation_table(evaluations), {"evaluations": facts})


def _evaluate(
    options: EvaluateOptions, settings: EvaluationSettings, terminal: Terminal
) -> list[tuple[Path, Evaluation]]:
    """Return each run's folder and its evaluation; nothing on other ranks than the main one."""
    device, precision = open_device(options.device, options.precision, say=terminal.say)
    names = distinct_names([run.resolve() for run in options.runs])
    is_sampled = "transformer" in [kind_of_run(run) for run in options.runs]

    with init_process_group(device) as world, ExitStack() as locks:
        precision = world.broadcast(precision)
        judges = Judges(None, None)
        if settings.n_captions and is_sampled:
            judges = load_judges(settings, precision=precision, world=world, terminal=terminal)

        planned = []
        for run, name in zip(options.runs, names, strict=True):
            plan = plan_evaluation(
                run, settings, clip=judges.clip, device=device.type, precision=precision
            )
            path = _named_folder(options, name)
            JobFolder.open(path).check(plan.job, is_complete=True)  # on every rank, told once
            if world.is_main:
                path = path or find_evaluation_folder(run, plan.job)
                locks.enter_context(JobFolder.open(path).writing(plan.job))
                terminal.say(f"{printable(name)}: {plan.pairs.description}; writing {path}")

            folder = EvaluationFolder(world.broadcast(path))
            planned.append((plan, folder))
            generate_samples(
                plan,
                folder,
                scorer=judges.scorer,
                precision=precision,
                world=world,
                terminal=terminal,
            )
        if not world.is_main:
            return []

        measured = []
        for (plan, folder), name in zip(planned, names, strict=True):
            measurement = Measurement(plan, folder, judges, world.device, precision, terminal)
            measured.append((folder.path, measure_all(measurement, name)))
        return measured


def _named_folder(options: EvaluateOptions, name: str) -> Path | None:
    if options.out is None or len(options.runs) == 1:
        return options.out
    return options.out / name
