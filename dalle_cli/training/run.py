"""A run from its folder's first file to its last checkpoint: begun or resumed, the same for every model.

Commands say what is trained; this module gathers folder, data and arithmetic, writes down what the run is, and drives
the loop.
"""

import json
import os
import platform
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dalle_cli import __version__
from dalle_cli.config import Recipe, TrainedTransformerTable
from dalle_cli.console import Terminal
from dalle_cli.data.loader import TrainingBatches, ValidationBatches
from dalle_cli.data.preprocessing import Preprocessing
from dalle_cli.data.sources import Source, open_dataset, validation_split
from dalle_cli.errors import DalleError, UsageError
from dalle_cli.runtime.devices import explain_out_of_memory, open_device
from dalle_cli.runtime.distributed import World
from dalle_cli.runtime.peak_rates import stored_matmul_rate
from dalle_cli.runtime.precision import Precision
from dalle_cli.storage.atomic import atomic_write, exclusive_lock, free_disk
from dalle_cli.storage.run_dir import WEIGHTS, RunDir
from dalle_cli.training.checkpoint import (
    CHECKPOINT_COPIES,
    SCHEMA,
    Saver,
    load_checkpoint,
    save_model,
    step_of,
)
from dalle_cli.training.engines.choice import EngineChoice, choose_engine, make_engine
from dalle_cli.training.engines.engine import Engine, Trainable
from dalle_cli.training.flops import train_flops
from dalle_cli.training.loop import Batches, train
from dalle_cli.training.metric_log import MetricLog
from dalle_cli.training.optimization.gradient_scaling import BranchScales
from dalle_cli.training.optimization.loss_scaling import LossScale
from dalle_cli.training.resume import check_folder, starting_checkpoint
from dalle_cli.training.tasks.task import Task
from dalle_cli.training.throughput import Throughput
from dalle_cli.untrusted import printable


@dataclass(frozen=True)
class TrainOptions:
    """What the three training commands have in common on the command line."""

    data: str
    run: Path
    valid: str | None = None
    resume: str = "auto"
    device: str = "auto"
    dry_run: bool = False
    deepspeed: Path | None = None


@dataclass(frozen=True)
class Portion:
    """Some of a source's samples."""

    source: Source
    indices: np.ndarray


@dataclass(frozen=True)
class TrainingRun:
    """A run about to train: its folder, its data, its arithmetic, and the checkpoint it goes on from, if any."""

    recipe: Recipe
    run: RunDir
    terminal: Terminal
    world: World
    precision: Precision
    engine: EngineChoice
    training: Portion
    validation: Portion
    checkpoint: Path | None

    @property
    def is_resumed(self) -> bool:
        """Whether the folder already holds this run."""
        return self.run.is_run

    def record(self) -> None:
        """Write down what this run is: the first file of a new run, renewed when it goes on; one process does it."""
        if not self.world.is_main:
            return
        if self.checkpoint is not None and step_of(self.checkpoint) >= self.recipe.training.steps:
            return
        record = {
            "schema": SCHEMA,
            "recipe": self.recipe.model_dump(),
            "resolved": {
                "device": self.world.device.type,
                "precision": self.precision,
                "processes": self.world.size,
                "engine": self.engine.name,
                "deepspeed": self.engine.zero,
            },
            "versions": {
                "dalle": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "data": {
                "fingerprint": self.training.source.fingerprint(),
                "samples": len(self.training.source),
                "held_out": _held_out(self.training, self.validation),
            },
        }
        self.run.root.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.run.recipe) as beside:
            beside.write_text(json.dumps(record, indent=1))

    def train(
        self,
        model: Trainable,
        task_on: Callable[[Trainable], Task],
        prepare: Preprocessing,
        model_config: dict[str, Any],
        scales: BranchScales | LossScale | None = None,
        watch: Callable[[int, dict[str, float]], None] = lambda done, figures: None,
    ) -> None:
        """Train the model to the recipe's last step; `model_config` goes into the run's model folder.

        task_on  makes the task, on the model as the engine wants it called
        scales   of what trains in fp16
        watch    hears of every report, as in `MetricLog`
        """
        with (
            exclusive_lock(self.run.root) if self.world.is_main else nullcontext(),
            explain_out_of_memory(),
        ):
            engine = make_engine(self.engine, self.recipe, model, self.world, scales)
            self._train(engine, task_on(engine.module), prepare, model_config, watch)

    def _train(
        self,
        engine: Engine,
        task: Task,
        prepare: Preprocessing,
        model_config: dict[str, Any],
        watch: Callable[[int, dict[str, float]], None],
    ) -> None:
        recipe, runtime = self.recipe, self.recipe.runtime
        steps = recipe.training.steps
        unreported = self._restore(engine)
        if engine.step >= steps:
            has_model = self.world.all_gather([(self.run.model / WEIGHTS).is_file()])[0]
            if not has_model:
                save_model(self.run.model, model_config, engine.inference_weights(), self.world)
            self.terminal.say(
                f"{self.run.root} is already at step {engine.step} of {steps}: nothing to do"
            )
            return
        batches = self._batches(prepare)
        saver = Saver(self.run, model_config, runtime.keep_checkpoints, self.world)
        n_drawn = (steps - engine.step) * recipe.training.global_batch_size
        with self.terminal.progress(steps, engine.step, "step") as line:
            metrics = self.run.metrics if self.world.is_main else None

            def hear(done: int, figures: dict[str, float]) -> None:
                line.report(done, figures)
                watch(done, figures)

            log = MetricLog(metrics, runtime.report_every, self._pace(model_config).figures, hear)
            log.restore(unreported, engine.step)
            train(task, engine, batches, runtime, steps, log, saver)
        if batches.training.n_bad:
            self.terminal.say(f"skipped {batches.training.n_bad} bad samples")
        n_enlarged = int(
            self.world.all_reduce_numbers({"enlarged": batches.training.n_enlarged})["enlarged"]
        )
        if n_enlarged:
            self.terminal.say(
                f"enlarged {n_enlarged:,} of {n_drawn:,} pictures drawn: smaller than the model's"
            )

    def _pace(self, model_config: dict[str, Any]) -> Throughput:
        """Say what an update does; of its arithmetic and tokens, a transformer's alone are reckoned."""
        n_images, device = self.recipe.training.global_batch_size, self.world.device
        if model_config["kind"] != "transformer":
            return Throughput(n_images, device)
        model = TrainedTransformerTable(**model_config["model"])
        rate = stored_matmul_rate(device, self.precision)
        return Throughput(
            n_images,
            device,
            tokens=n_images * (model.text_len + model.grid_size**2),
            flops=n_images * train_flops(model),
            matmul_rate=rate and rate * self.world.size,
        )

    def _batches(self, prepare: Preprocessing) -> Batches:
        """Join the data with what the model makes of a sample; there are no more loaders than processors."""
        recipe, runtime = self.recipe, self.recipe.runtime
        training = TrainingBatches(
            self.training.source,
            self.training.indices,
            preprocess=prepare,
            data=recipe.data,
            training=recipe.training,
            workers=min(runtime.workers, _n_processors()),
            on_bad=lambda key, reason: self.terminal.warn(f"skipped {printable(key)}: {reason}"),
            share=self.world.share(recipe.training.global_batch_size),
            join=self.world.all_gather,
        )
        batch_size = runtime.micro_batch_size or len(
            self.world.share(recipe.training.global_batch_size)
        )
        held_out = self.validation
        validation = ValidationBatches(
            held_out.source,
            held_out.indices,
            preprocess=prepare,
            batch_size=batch_size,
            n_samples=runtime.validation_samples,
        )
        return Batches(training, validation)

    def _restore(self, engine: Engine) -> list[dict[str, float]]:
        """Take over the checkpoint to go on from, if there is one, and give the log's state."""
        if self.checkpoint is None:
            return []
        state = load_checkpoint(self.checkpoint)
        try:
            engine.restore(state)
        except (ValueError, KeyError) as error:
            raise DalleError(f"the checkpoint does not fit this run: {error}") from error
        self.terminal.say(f"resumed after step {engine.step}")
        return state.unreported

    def _cut(self) -> str:
        """Say how a batch is dealt out, where it is."""
        whole = self.recipe.training.global_batch_size
        share = len(self.world.share(whole))
        micro = self.recipe.runtime.micro_batch_size or share
        if micro >= whole:
            return ""
        return f" = {micro} x {-(-share // micro)} micro-batches x {self.world.size} processes"

    def describe(self, model: nn.Module) -> None:
        """Say where the run writes and what it will do; the model may be on the meta device."""
        n_parameters = sum(parameter.numel() for parameter in model.parameters())
        training = self.recipe.training
        self.terminal.say(
            f"writing {self.run.root}: {n_parameters / 1e6:.2f} M parameters, "
            f"{self.world.device.type}, {self.precision}, {self.engine}\n"
            f"{len(self.training.indices):,} samples and {len(self.validation.indices):,} held out; "
            f"{training.steps:,} steps of {training.global_batch_size}{self._cut()}"
        )
        needed = CHECKPOINT_COPIES * 4 * n_parameters * (self.recipe.runtime.keep_checkpoints + 2)
        free = free_disk(self.run.root)
        if needed > free:
            self.terminal.warn(
                f"the checkpoints will take {needed / 2**30:.1f} GiB, free are {free / 2**30:.1f}"
            )


def open_run(
    recipe: Recipe,
    options: TrainOptions,
    terminal: Terminal,
    captions_required: bool,
    world: World,
    tokens_allowed: bool = False,
) -> TrainingRun:
    """Look at the run folder and the data without changing anything; raises DalleError for what is wrong with them.

    captions_required, tokens_allowed  as in `open_dataset`
    """
    if recipe.training.global_batch_size % world.size:
        message = f"a batch of {recipe.training.global_batch_size} can't be dealt out evenly to {world.size} processes"
        raise UsageError(message, "change `training.global_batch_size`")
    engine = choose_engine(recipe, world.size, options.deepspeed)
    run = RunDir(options.run)
    recorded = check_folder(run, recipe, options.resume)
    checkpoint = starting_checkpoint(run, options.resume, terminal)
    choice = recipe.runtime.precision
    if choice == "auto" and recorded:
        choice = recorded["resolved"]["precision"]
    _, precision = open_device(options.device, choice)
    precision = world.all_gather([precision])[
        0
    ]  # found by a race, which may end differently elsewhere
    training, validation = _portions(recipe, options, terminal, captions_required, tokens_allowed)
    if recorded and recorded["data"]["fingerprint"] != training.source.fingerprint():
        terminal.warn(f"{options.data} is not what this run began with: its samples have changed")
    if recorded and recorded["data"]["held_out"] != _held_out(training, validation):
        raise UsageError(
            f"{run.root} was begun with other held-out data",
            "give the same --valid, or none, as then",
        )
    world.barrier()  # nothing is written before all have looked
    return TrainingRun(
        recipe, run, terminal, world, precision, engine, training, validation, checkpoint
    )


def _portions(
    recipe: Recipe,
    options: TrainOptions,
    terminal: Terminal,
    captions_required: bool,
    tokens_allowed: bool,
) -> tuple[Portion, Portion]:
    """Open the data and split off what is held out, unless --valid brings it."""
    source = open_dataset(
        options.data, captions_required=captions_required, tokens_allowed=tokens_allowed
    )
    terminal.warn_about(source.problems)
    if options.valid is None:
        train_indices, valid_indices = validation_split(source, recipe.data.validation_share)
        return Portion(source, train_indices), Portion(source, valid_indices)
    held_out = open_dataset(
        options.valid, captions_required=captions_required, tokens_allowed=tokens_allowed
    )
    return Portion(source, np.arange(len(source))), Portion(held_out, np.arange(len(held_out)))


def _n_processors() -> int:
    """Count the processors that this process may use; not every system can tell which."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _held_out(training: Portion, validation: Portion) -> str:
    """Describe what is held out: a share of the data itself, or a source of its own."""
    is_share = validation.source is training.source
    return "a share" if is_share else validation.source.fingerprint()
