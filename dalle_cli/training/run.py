"""A training run, from its folder's first file to its last checkpoint: the same for every model.

Commands decide what is trained; this module looks at folder, data and device, writes the record,
and runs the loop.
"""

import math
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

import torch

from dalle_cli.config import PowerSGDTable, Recipe
from dalle_cli.console import Terminal
from dalle_cli.data.preprocessing import Preprocessing
from dalle_cli.data.sources import Columns
from dalle_cli.errors import UsageError
from dalle_cli.loading import build_largest_model
from dalle_cli.runtime.devices import explain_out_of_memory, open_device
from dalle_cli.runtime.distributed import World
from dalle_cli.runtime.precision import Precision
from dalle_cli.schedules import RecipeT, fix_schedules
from dalle_cli.storage.atomic import exclusive_lock, free_disk
from dalle_cli.storage.model_folder import check_model_kind
from dalle_cli.storage.run_dir import RunDir, model_dir
from dalle_cli.storage.run_record import RunRecord
from dalle_cli.training.checkpoint import Saver, held_out_losses, step_of
from dalle_cli.training.engines.choice import EngineChoice, choose_engine, make_engine
from dalle_cli.training.engines.engine import ModelT
from dalle_cli.training.loop import Batches, train
from dalle_cli.training.memory import checkpoint_bytes
from dalle_cli.training.metric_log import MetricLog, OnReport
from dalle_cli.training.optimization.gradient_scaling import GradientScales
from dalle_cli.training.resume import check_folder, restore_engine, starting_checkpoint
from dalle_cli.training.run_data import RunData, open_run_data
from dalle_cli.training.tasks.task import Task
from dalle_cli.training.throughput import NOT_COUNTED, SampleCost, throughput_of


@dataclass(frozen=True)
class TrainOptions:
    """The options that the three training commands share.

    init_from     a run or an export whose weights a new run starts from
    command       the command and its inputs, for the run's record
    is_extension  whether the recipe is that of the run in the folder, made longer
    """

    data: tuple[str, ...]
    run: Path
    image_column: str | None = None
    caption_column: str | None = None
    valid: str | None = None
    resume: str = "auto"
    device: str = "auto"
    dry_run: bool = False
    deepspeed: Path | None = None
    init_from: Path | None = None
    command: Mapping[str, Any] = field(default_factory=dict)
    is_extension: bool = False

    @property
    def data_words(self) -> str:
        """The options that name the data, as on a command line."""
        words = [word for spec in self.data for word in ("--data", spec)]
        for option, column in (("--image", self.image_column), ("--caption", self.caption_column)):
            words += [] if column is None else [f"{option}-column", column]
        return shlex.join(words)


@dataclass(frozen=True)
class TrainingRun(Generic[RecipeT]):
    """A run about to train.

    recipe      with the lengths of its schedules in updates
    asked       the recipe as it was given, lengths as shares included
    command     the command and its inputs, for the run's record
    init_from   a run or an export whose weights it starts from, if it has no checkpoint
    checkpoint  the one that it resumes from; None for a new run
    """

    recipe: RecipeT
    asked: RecipeT
    command: Mapping[str, Any]
    init_from: Path | None
    folder: RunDir
    terminal: Terminal
    world: World
    precision: Precision
    engine: EngineChoice
    data: RunData
    checkpoint: Path | None

    def describe(self) -> None:
        """Print where the run writes and what it will do."""
        with torch.device("meta"):
            model = build_largest_model(self.recipe)
        n_parameters = sum(parameter.numel() for parameter in model.parameters())
        training, data = self.recipe.training, self.data
        self.terminal.say(
            f"writing {self.folder.root}: {n_parameters / 1e6:.2f} M parameters, "
            f"{self.world.device.type}, {self.precision}, {self.engine}\n"
            f"{len(data.training.indices):,} samples and "
            f"{len(data.validation.indices):,} held out; "
            f"{training.steps:,} steps of {training.global_batch_size}{self._micro_batches()}"
        )

        # those kept, the best, and one being written
        n_checkpoints = self.recipe.runtime.keep_checkpoints + 2
        needed = checkpoint_bytes(n_parameters) * n_checkpoints
        free = free_disk(self.folder.root)
        if needed > free:
            sizes = f"{needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free"
            self.terminal.warn(f"the checkpoints will take {sizes}")

    def _micro_batches(self) -> str:
        """Describe how a batch is divided, if it is."""
        whole = self.recipe.training.global_batch_size
        share = len(self.world.share(whole))
        micro = self.recipe.runtime.micro_batch_size or share
        if micro >= whole:
            return ""
        return f" = {micro} x {-(-share // micro)} micro-batches x {self.world.size} processes"

    def record(self) -> None:
        """Write the run's record: the first file of a new run, renewed when a run is resumed.

        Only the main process writes, and only if there is an update left.
        """
        steps = self.recipe.training.steps
        is_done = self.checkpoint is not None and step_of(self.checkpoint) >= steps
        if is_done or not self.world.is_main:
            return

        source = self.data.training.source
        record = RunRecord(
            recipe=self.asked.model_dump(),
            command=self.command,
            device=self.world.device.type,
            precision=self.precision,
            n_processes=self.world.size,
            engine=self.engine.name,
            zero=self.engine.zero,
            fingerprint=source.fingerprint(),
            n_samples=len(source),
            held_out=self.data.held_out,
        )
        record.write(self.folder)

    def train(
        self,
        model: ModelT,
        task_on: Callable[[ModelT], Task[ModelT]],
        *,
        preprocess: Preprocessing,
        model_config: dict[str, Any],
        scales: GradientScales | None = None,
        powersgd: PowerSGDTable | None = None,
        cost: SampleCost = NOT_COUNTED,
        on_report: OnReport = lambda done, figures: None,
    ) -> None:
        """Train the model to the recipe's last step.

        task_on       makes the task, given the model as the engine wants it called
        model_config  `kind` and `model`, for the run's model folder
        scales        of a model that trains in fp16
        powersgd      compression of gradients between processes
        cost          of a sample, for the throughput
        on_report     is called with every report, as in `MetricLog`

        Every process takes part. Raises DalleError if another command trains in the folder, if the
        checkpoint does not fit, or if memory runs out, and Interrupted after a request to stop.
        """
        lock = exclusive_lock(self.folder.root) if self.world.is_main else nullcontext()
        with lock, explain_out_of_memory():
            engine = make_engine(
                self.engine,
                self.recipe,
                model=model,
                world=self.world,
                scales=scales,
                powersgd=powersgd,
            )

            unreported = restore_engine(engine, self.checkpoint, self.terminal)
            keep = self.recipe.runtime.keep_checkpoints
            saver = Saver(self.folder, model_config, keep=keep, world=self.world)

            steps = self.recipe.training.steps
            if engine.step >= steps:
                saver.restore_model(engine.inference_weights())
                done = f"{self.folder.root} is already at step {engine.step} of {steps}"
                longer = f"`dalle resume {shlex.quote(str(self.folder.root))} --extend N`"
                self.terminal.say(f"{done}: nothing to do\nhint: {longer} trains N more")
                return

            batches = self.data.batches(
                preprocess, self.recipe, world=self.world, terminal=self.terminal
            )
            n_samples = (steps - engine.step) * self.recipe.training.global_batch_size
            task = task_on(engine.module)
            with self._log(
                engine.step, unreported, cost=cost, formats=task.formats, on_report=on_report
            ) as log:
                train(
                    task,
                    engine,
                    batches=batches,
                    runtime=self.recipe.runtime,
                    steps=steps,
                    log=log,
                    saver=saver,
                )
            self._report_samples(batches, n_samples)
            self._report_best()

    @contextmanager
    def _log(
        self,
        step: int,
        unreported: list[dict[str, float]],
        *,
        cost: SampleCost,
        formats: Mapping[str, str],
        on_report: OnReport,
    ) -> Iterator[MetricLog]:
        """Yield the log of a run that resumes after `step`, which also shows its progress."""
        training, runtime = self.recipe.training, self.recipe.runtime
        throughput = throughput_of(
            cost, training.global_batch_size, precision=self.precision, world=self.world
        )
        with self.terminal.progress(training.steps, step, "step") as line:

            def show(done: int, figures: dict[str, float]) -> None:
                line.report(done, figures, formats=formats)
                on_report(done, figures)

            log = MetricLog(
                self.folder.metrics if self.world.is_main else None,
                runtime.report_every,
                rates=throughput.figures,
                on_report=show,
                on_update=line.reach,
            )
            log.restore(unreported, step)
            yield log

    def _report_samples(self, batches: Batches, n_samples: int) -> None:
        """Print how many samples were bad, and how many had to be enlarged."""
        training = batches.training
        if training.n_bad:
            self.terminal.say(f"skipped {training.n_bad} bad samples")
        total = self.world.all_reduce_numbers({"enlarged": training.n_enlarged})
        n_enlarged = int(total["enlarged"])
        if n_enlarged:
            share = f"{n_enlarged:,} of {n_samples:,} pictures"
            self.terminal.say(f"enlarged {share}: they were smaller than the model's")

    def _report_best(self) -> None:
        """Print at which checkpoint the held-out loss was lowest, unless that is the last one."""
        losses = held_out_losses(self.folder)
        best = min(losses, key=lambda step: losses[step], default=None)
        now = losses.get(self.recipe.training.steps, math.inf)
        if best is None or losses[best] >= now:
            return

        root = self.folder.root
        use = (
            f"`dalle generate {root} --checkpoint best` draws from it"
            if self.recipe.kind == "transformer"
            else f"`dalle export {root} --checkpoint best --out DIR` copies it"
        )
        figures = f"{losses[best]:.3f}; now {now:.3f}"
        self.terminal.say(f"held-out loss was lowest at step {best:,} ({figures}): {use}")


def open_run(
    recipe: RecipeT,
    options: TrainOptions,
    *,
    terminal: Terminal,
    world: World,
    captions_required: bool,
    tokens_allowed: bool = False,
) -> TrainingRun[RecipeT]:
    """Check the run folder, the data and the device, without writing anything.

    captions_required, tokens_allowed  as in `open_dataset`

    Every process takes part. Raises DalleError for whatever is wrong with them.
    """
    batch_size = recipe.training.global_batch_size
    if batch_size % world.size:
        message = f"a batch of {batch_size} can't be divided evenly among {world.size} processes"
        raise UsageError(message, "change `training.global_batch_size`")
    engine = choose_engine(recipe, world.size, options.deepspeed)

    folder = RunDir(options.run)
    record = check_folder(folder, recipe, resume=options.resume, is_extension=options.is_extension)
    checkpoint = starting_checkpoint(folder, options.resume, terminal)
    begun_from = options.init_from if record is None else _recorded_init(record, folder, options)
    if begun_from is not None and checkpoint is None:
        check_model_kind(model_dir(begun_from), recipe.kind)
    precision = _choose_precision(recipe, options, record=record, world=world)

    data = open_run_data(
        options.data,
        options.valid,
        columns=Columns(options.image_column, options.caption_column),
        validation_share=recipe.data.validation_share,
        captions_required=captions_required,
        tokens_allowed=tokens_allowed,
        terminal=terminal,
    )
    if record and record.fingerprint != data.training.source.fingerprint():
        terminal.warn(
            f"{', '.join(options.data)} is not what this run began with: its samples have changed"
        )
    if record and record.held_out != data.held_out:
        hint = "give the same --valid, or none, as then"
        raise UsageError(f"{folder.root} was begun with other held-out data", hint)

    world.barrier()  # no process writes before all have looked
    return TrainingRun(
        recipe=fix_schedules(recipe),
        asked=recipe,
        command={**options.command, "init_from": None if begun_from is None else str(begun_from)},
        init_from=begun_from if checkpoint is None else None,
        folder=folder,
        terminal=terminal,
        world=world,
        precision=precision,
        engine=engine,
        data=data,
        checkpoint=checkpoint,
    )


def _recorded_init(record: RunRecord, folder: RunDir, options: TrainOptions) -> Path | None:
    """Return what the run started from; raises UsageError where something else is given now."""
    recorded = record.command.get("init_from")
    begun_from = None if recorded is None else Path(recorded)
    if options.init_from is not None and options.init_from.absolute() != begun_from:
        message = f"{folder.root} did not start from {options.init_from}"
        raise UsageError(message, "leave out --init-from, or name a new folder with --run")
    return begun_from


def _choose_precision(
    recipe: Recipe, options: TrainOptions, *, record: RunRecord | None, world: World
) -> Precision:
    """Open the device and return the precision; `auto` stays as resolved when the run began.

    Every process takes part.
    """
    choice = recipe.runtime.precision
    recalled = record.precision if record and choice == "auto" else choice
    _, precision = open_device(options.device, recalled)
    # `auto` is decided by a race, which may end differently elsewhere
    return world.broadcast(precision)
