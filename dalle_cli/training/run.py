"""A training run, from its folder's first file to its last checkpoint: the same for every model.

Commands decide what is trained; this module looks at folder, data and device, writes the record,
and runs the loop.
"""

import math
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple

from dalle_cli.config import Recipe
from dalle_cli.console import Terminal, duration_text, size_text
from dalle_cli.data.sources import Columns
from dalle_cli.errors import DalleError, UsageError, printable
from dalle_cli.loading import largest_table
from dalle_cli.runtime.devices import device_words, explain_out_of_memory, open_device
from dalle_cli.runtime.distributed import World
from dalle_cli.runtime.precision import Precision, precision_words
from dalle_cli.runtime.threads import ThreadsByLoad
from dalle_cli.schedules import RecipeT, fix_schedules
from dalle_cli.storage.atomic import exclusive_lock, make_folder
from dalle_cli.storage.checkpoint_folder import best_step, checkpoints, held_out_losses, step_of
from dalle_cli.storage.integrity.disk_space import free_disk
from dalle_cli.storage.model_folder import check_model_kind
from dalle_cli.storage.run_dir import RunDir, model_dir, part_of
from dalle_cli.storage.run_record import RunRecord
from dalle_cli.training.checkpoint import Saver, check_place_for_checkpoints
from dalle_cli.training.engines.choice import EngineChoice, choose_engine, make_engine
from dalle_cli.training.engines.engine import Engine, ModelT
from dalle_cli.training.loop import Batches, train
from dalle_cli.training.metric_log import MetricLog
from dalle_cli.training.optimization.divergence import DivergenceMonitor
from dalle_cli.training.planning.cost import check_fits, count_parameters
from dalle_cli.training.planning.forecast import (
    Amount,
    Forecast,
    checkpoints_bytes,
    forecast,
    passes_text,
)
from dalle_cli.training.planning.rehearsal import Rehearsal, rehearse
from dalle_cli.training.resume import (
    check_folder,
    restore_engine,
    resuming,
    starting_checkpoint,
)
from dalle_cli.training.run_data import RunData, open_run_data
from dalle_cli.training.setup import TrainingSetup
from dalle_cli.training.throughput import throughput_of
from dalle_cli.training.trackers.choice import check_tracker
from dalle_cli.training.trackers.curves import open_curves


@dataclass(frozen=True)
class TrainOptions:
    """The options that the training commands share.

    exclude       a list of keys of samples that are left out of the data
    init_from     a run or an export whose weights a new run starts from
    log           the tracker that figures and previews are sent to, by its name
    command       the command and its inputs, for the run's record
    is_extension  whether the recipe is that of the run in the folder, made longer
    """

    data: tuple[str, ...]
    run: Path
    image_column: str | None = None
    caption_column: str | None = None
    exclude: Path | None = None
    valid: str | None = None
    resume: str = "auto"
    device: str = "auto"
    dry_run: bool = False
    deepspeed: Path | None = None
    init_from: Path | None = None
    log: str | None = None
    command: Mapping[str, Any] = field(default_factory=dict)
    is_extension: bool = False

    @property
    def data_words(self) -> list[str]:
        """The options that name the data, as on a command line."""
        words = [word for spec in self.data for word in ("--data", spec)]
        for option, column in (("--image", self.image_column), ("--caption", self.caption_column)):
            words += [] if column is None else [f"{option}-column", column]
        return words if self.exclude is None else [*words, "--exclude", str(self.exclude)]

    @classmethod
    def recorded(
        cls, command: Mapping[str, Any], run: Path, *, device: str, is_extension: bool
    ) -> "TrainOptions":
        """Return the options of the command in a run's record.

        Raises KeyError for one that is missing, and TypeError for a value of another kind.
        """
        deepspeed, exclude = command["deepspeed"], command.get("exclude")  # older records lack it
        return cls(
            data=tuple(command["data"]),
            run=run,
            image_column=command["image_column"],
            caption_column=command["caption_column"],
            exclude=Path(exclude) if exclude else None,
            valid=command["valid"],
            device=device,
            deepspeed=Path(deepspeed) if deepspeed else None,
            log=command.get("log"),
            command=command,
            is_extension=is_extension,
        )


@dataclass(frozen=True)
class TrainingRun(Generic[RecipeT]):
    """A run about to train.

    recipe      with the lengths of its schedules in updates
    asked       the recipe as it was given, lengths as shares included
    command     the command and its inputs, for the run's record
    init_from   a run or an export whose weights it starts from, if it has no checkpoint
    checkpoint  the one that it resumes from; None for a new run
    found       what the folder held of a run when it was looked at
    threads     adapts the number of threads that compute, on a CPU
    log         the name of the tracker that figures and previews are sent to, if any
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
    found: "RunFiles"
    threads: ThreadsByLoad
    log: str | None = None

    def describe(self, *, dry_run: bool) -> None:
        """Print where the run writes, what it will do, and what is doubtful about that."""
        n_parameters = count_parameters(largest_table(self.recipe))
        training, amount = self.recipe.training, self.amount
        writing = "would write" if dry_run else "writing"
        self.terminal.say(
            f"{writing} {self.folder.root}: {n_parameters / 1e6:.2f} M parameters, "
            f"{self.world.device.type}, {precision_words(self.precision, self.world.device)}, "
            f"{self.engine}\n"
            f"{amount.n_training:,} samples and {amount.n_held_out:,} held out; "
            f"{training.steps:,} steps of {training.global_batch_size}{self._micro_batches()}, "
            f"{passes_text(amount.passes)} passes"
        )
        self._warn(amount.doubts())
        if not dry_run:  # which ends with a forecast
            needed = checkpoints_bytes(self.recipe)
            self._warn(Forecast(0, None, needed).doubts(self.recipe, free_disk(self.folder.root)))

    @property
    def amount(self) -> Amount:
        """How much the run trains on."""
        data = self.data
        return Amount(
            self.recipe,
            len(data.training.indices),
            len(data.validation.indices),
            has_valid=data.validation.source is not data.training.source,
        )

    def _warn(self, doubts: list[tuple[str, str]]) -> None:
        for doubt, help_ in doubts:
            self.terminal.warn(f"{doubt}\nhint: {help_}")

    def _micro_batches(self) -> str:
        """Describe how a batch is divided, if it is."""
        whole = self.recipe.training.global_batch_size
        share = len(self.world.share(whole))
        micro = self.recipe.runtime.micro_batch_size or share
        if micro >= whole:
            return ""
        return f" = {micro} x {-(-share // micro)} micro-batches x {self.world.size} processes"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the run's folder for the duration of a `with`, in which all files are written.

        Every process takes part; the main one holds the folder. Raises DalleError, touching
        nothing, if another command holds it, or has written to it since it was looked at.
        """
        if not self.world.is_main:
            yield
            return
        make_folder(self.folder.root)
        with exclusive_lock(self.folder.root):
            if RunFiles.of(self.folder) != self.found:
                message = f"another command has trained in {self.folder.root} meanwhile"
                raise DalleError(message, "type the same command again")
            yield

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
            n_excluded=self.data.training.n_excluded,
            machine=device_words(self.world.device),
        )
        record.write(self.folder)

    def train(self, setup: TrainingSetup[ModelT]) -> None:
        """Train the model to the recipe's last step.

        Every process takes part. Raises DalleError if the checkpoint does not fit, and Interrupted
        after a request to stop.
        """
        engine = self._engine(setup)
        state = restore_engine(engine, self.checkpoint, self.terminal)
        keep = self.recipe.runtime.keep_checkpoints
        warn = self.terminal.warn
        saver = Saver(self.folder, setup.model_config, keep=keep, world=self.world, warn=warn)
        saver.clear_remains()

        steps = self.recipe.training.steps
        if engine.step >= steps:
            if saver.restore_model(engine.inference_weights()):
                self.terminal.say(f"wrote {self.folder.model} anew: it was missing or damaged")
            done = f"{self.folder.root} is already at step {engine.step:,} of {steps:,}"
            longer = f"`dalle resume {shlex.quote(str(self.folder.root))} --extend N`"
            self.terminal.say(f"{done}: nothing to do\nhint: {longer} trains N more")
            return

        batches = self._batches(setup)
        n_samples = (steps - engine.step) * self.recipe.training.global_batch_size
        task = setup.task_on(engine.module)
        monitor = DivergenceMonitor(
            self.folder,
            self.recipe.optimizer,
            has_scales=engine.has_scales,
            warn=self.terminal.warn,
            losses=state.losses,
        )
        with self._log(engine.step, state.unreported, setup=setup, formats=task.formats) as log:
            train(
                task,
                engine,
                batches=batches,
                runtime=self.recipe.runtime,
                steps=steps,
                log=log,
                saver=saver,
                monitor=monitor,
                warn=self.terminal.warn,
            )
        self._report_samples(batches, n_samples)
        self._report_best()

    def rehearse(self, setup: TrainingSetup[ModelT]) -> Rehearsal:
        """Time a few updates and a validation of the new model, without writing anything.

        Every process takes part. Raises DalleError if memory runs out.
        """
        with explain_out_of_memory():
            engine = self._engine(setup)
            return rehearse(
                setup.task_on(engine.module),
                engine,
                batches=self._batches(setup),
                runtime=self.recipe.runtime,
            )

    def report_forecast(self, setup: TrainingSetup[ModelT]) -> None:
        """Rehearse, and print what the run would take: the end of a dry run."""
        rehearsal = self.rehearse(setup)
        expected = forecast(
            self.recipe,
            rehearsal.seconds_per_step,
            steps_done=0 if self.checkpoint is None else step_of(self.checkpoint),
            seconds_per_validation=rehearsal.seconds_per_validation,
            peak_bytes=rehearsal.peak_bytes,
        )
        self._warn(expected.doubts(self.recipe, free_disk(self.folder.root)))
        facts = {"run": str(self.folder.root), "dry_run": True, **asdict(expected)}
        facts |= {"passes": round(self.amount.passes, 2)}
        memory = "not known" if expected.peak_bytes is None else size_text(expected.peak_bytes)
        text = (
            f"time      about {duration_text(expected.seconds)}, from a few steps of "
            f"{rehearsal.seconds_per_step:.3g} s\n"
            f"memory    {memory}\n"
            f"disk      {size_text(expected.disk_bytes)} for checkpoints\n"
            f"nothing written to {self.folder.root}"
        )
        self.terminal.result(text, facts)

    def _engine(self, setup: TrainingSetup[ModelT]) -> Engine[ModelT]:
        return make_engine(
            self.engine,
            self.recipe,
            model=setup.model,
            world=self.world,
            scales=setup.scales,
            powersgd=setup.powersgd,
        )

    def _batches(self, setup: TrainingSetup[ModelT]) -> Batches:
        return self.data.batches(
            setup.preprocess, self.recipe, world=self.world, terminal=self.terminal
        )

    @contextmanager
    def _log(
        self,
        step: int,
        unreported: list[dict[str, float]],
        *,
        setup: TrainingSetup[Any],
        formats: Mapping[str, str],
    ) -> Iterator[MetricLog]:
        """Yield the log of a run that resumes after `step`, which also shows its progress."""
        training, runtime = self.recipe.training, self.recipe.runtime
        throughput = throughput_of(
            setup.cost, training.global_batch_size, precision=self.precision, world=self.world
        )
        with (
            open_curves(
                self.log if self.world.is_main else None,
                self.folder,
                step,
                recipe=self.asked.model_dump(),
                terminal=self.terminal,
            ) as curves,
            self.terminal.progress(training.steps, step, "step") as line,
        ):

            def reach(done: int) -> None:
                line.reach(done)
                self.threads.adapt()

            def show(done: int, figures: dict[str, float]) -> None:
                line.report(done, figures, formats=formats)
                setup.on_report(done, figures)
                curves.report(done, figures)

            log = MetricLog(
                self.folder.metrics if self.world.is_main else None,
                runtime.report_every,
                rates=throughput.figures,
                on_report=show,
                on_update=reach,
                on_preview=curves.preview,
            )
            log.restore(unreported, step)
            yield log

    def _report_samples(self, batches: Batches, n_samples: int) -> None:
        """Print how many samples were bad, and how many had to be enlarged."""
        training = batches.training
        if training.n_bad:
            self.terminal.say(f"skipped {training.n_bad} bad samples")
        n_enlarged = self.world.all_reduce_count(training.n_enlarged)
        if n_enlarged:
            share = f"{n_enlarged:,} of {n_samples:,} pictures"
            self.terminal.say(f"enlarged {share}: they were smaller than the model's")

    def _report_best(self) -> None:
        """Print at which checkpoint the held-out loss was lowest, unless that is the last one."""
        losses = held_out_losses(self.folder)
        best = best_step(losses)
        now = losses.get(self.recipe.training.steps, math.inf)
        if best is None or losses[best] >= now:
            return

        root = shlex.quote(str(self.folder.root))
        use = (
            f"`dalle generate {root} --checkpoint best` uses it"
            if self.recipe.kind == "transformer"
            else f"`dalle export {root} --checkpoint best --out DIR` copies it"
        )
        figures = f"{losses[best]:.3f}; now {now:.3f}"
        self.terminal.say(f"held-out loss was lowest at step {best:,} ({figures}): {use}")


class RunFiles(NamedTuple):
    """What a folder holds of a run: its record, and its checkpoints by step."""

    record: bytes
    steps: list[int]

    @classmethod
    def of(cls, folder: RunDir) -> "RunFiles":
        """Look at a folder."""
        record = folder.recipe.read_bytes() if folder.is_run else b""
        return cls(record, [step for step, _ in checkpoints(folder)])


def open_run(
    recipe: RecipeT,
    options: TrainOptions,
    *,
    terminal: Terminal,
    world: World,
    captions_required: bool,
    tokens_allowed: bool = False,
    embeddings_allowed: bool = False,
) -> TrainingRun[RecipeT]:
    """Check the run folder, the data and the device, without writing anything.

    captions_required, tokens_allowed, embeddings_allowed  as in `open_dataset`

    Every process takes part. Raises DalleError for whatever is wrong with them.
    """
    batch_size = recipe.training.global_batch_size
    if batch_size % world.size:
        message = f"a batch of {batch_size} can't be divided evenly among {world.size} processes"
        raise UsageError(message, "change `training.global_batch_size`")
    check_fits(recipe, world.device)
    if options.log is not None:
        check_tracker(options.log)
    machine_size = world.machine_size() if recipe.runtime.shard_group == "machine" else None
    engine = choose_engine(recipe, world.size, options.deepspeed, machine_size=machine_size)

    folder = RunDir(options.run)
    record = check_folder(folder, recipe, resume=options.resume, is_extension=options.is_extension)
    found = RunFiles.of(folder)
    checkpoint = starting_checkpoint(folder, options.resume, terminal)
    check_place_for_checkpoints(folder, 0 if checkpoint is None else step_of(checkpoint))
    if record is not None:
        _check_same_exclusion(record, folder, options)
    begun_from = options.init_from if record is None else _recorded_init(record, folder, options)
    if begun_from is not None and checkpoint is None:
        check_model_kind(model_dir(part_of(begun_from, recipe.kind)), recipe.kind)
    precision = _choose_precision(recipe, options, record=record, world=world)

    data = open_run_data(
        options.data,
        options.valid,
        columns=Columns(options.image_column, options.caption_column),
        table=recipe.data,
        captions_required=captions_required,
        tokens_allowed=tokens_allowed,
        embeddings_allowed=embeddings_allowed,
        terminal=terminal,
        exclude=options.exclude,
    )
    if record and record.fingerprint != data.training.source.fingerprint():
        terminal.warn(
            f"{', '.join(options.data)} is not what this run began with: its samples have changed"
        )
    if record and record.held_out != data.held_out:
        hint = "give the same --valid, or none, as then"
        raise UsageError(f"{folder.root} was begun with other held-out data", hint)

    threads = ThreadsByLoad(world.device, terminal.say)
    threads.look()
    world.barrier()  # no process writes before all have looked
    return TrainingRun(
        recipe=fix_schedules(recipe),
        asked=recipe,
        command={**options.command, "init_from": None if begun_from is None else str(begun_from)},
        init_from=part_of(begun_from, recipe.kind) if begun_from and not checkpoint else None,
        folder=folder,
        terminal=terminal,
        world=world,
        precision=precision,
        engine=engine,
        data=data,
        checkpoint=checkpoint,
        found=found,
        threads=threads,
        log=options.log,
    )


def _check_same_exclusion(record: RunRecord, folder: RunDir, options: TrainOptions) -> None:
    """Raise UsageError where samples were excluded and now none are to be, or the other way round.

    A list that has changed is warned of like any other change of the data.
    """
    begun_with = record.command.get("exclude")
    if (begun_with is None) == (options.exclude is None):
        return
    hint = f"{resuming(folder.root)}; or name a new folder with --run"
    if begun_with is None:
        raise UsageError(f"{folder.root} was begun without `--exclude`", f"leave it out: {hint}")
    shown = printable(str(begun_with))
    raise UsageError(f"{folder.root} was begun with `--exclude {shown}`", f"give it again: {hint}")


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
