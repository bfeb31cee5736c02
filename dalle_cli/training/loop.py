"""The one loop that trains every model.

It knows a task, an engine, batches, a log and a saver; not which model, how many processors, or
which precision.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dalle_cli.config import RuntimeTable
from dalle_cli.data.images import to_png
from dalle_cli.data.loader import Batch, TrainingBatches, ValidationBatches
from dalle_cli.runtime.devices import HostCopies
from dalle_cli.runtime.signals import StopRequested
from dalle_cli.storage.atomic import make_folder, write_file
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training.checkpoint import Saver
from dalle_cli.training.engines.engine import Engine, ModelT
from dalle_cli.training.metric_log import MetricLog, Metrics
from dalle_cli.training.optimization.divergence import DivergenceMonitor
from dalle_cli.training.stop_signals import Interrupted, StopSignals
from dalle_cli.training.tasks.task import Task


@dataclass(frozen=True)
class Batches:
    """Where training and held-out batches come from."""

    training: TrainingBatches
    validation: ValidationBatches


def train(
    task: Task[ModelT],
    engine: Engine[ModelT],
    *,
    batches: Batches,
    runtime: RuntimeTable,
    steps: int,
    log: MetricLog,
    saver: Saver,
    monitor: DivergenceMonitor,
    warn: Callable[[str], None],
) -> None:
    """Run the task to `steps` updates, reporting, validating and saving on the way.

    Whatever ends it early is raised after saving: Interrupted when asked to stop, or the failure.
    Diverged alone, where a loss, a gradient or a weight is not finite, is raised without saving.
    """
    saves = _Saves(engine, log=log, saver=saver, monitor=monitor, warn=warn)
    with StopSignals() as stop, closing(saves.before_stopping(batches.training, stop)) as loaded:
        for batch in loaded:
            stop.step_begins()
            engine.world.reach(f"step {engine.step + 1:,}")
            with saves.before_failing():
                totals = accumulate_gradients(task, engine, batch, runtime.micro_batch_size)
            is_unwanted = monitor.is_unwanted(totals["train/loss"])
            loss = _sent_to_host(totals["train/loss"])
            is_applied, metrics = update(engine, totals, is_discarded=is_unwanted)
            stop.step_ends()

            is_last = engine.step == steps
            monitor.check_update(
                engine.step,
                float(loss.arrived()[0]),
                is_applied=is_applied,
                is_last=is_last,
                keys=partial(engine.world.all_gather, batch.keys),
                can_recover=engine.can_recover,
            )
            with saves.before_failing():
                log.record(engine.step, metrics)
                with log.paused():
                    valid_loss = evaluate_if_due(
                        task,
                        engine,
                        validation=batches.validation,
                        runtime=runtime,
                        is_last=is_last,
                        log=log,
                        folder=saver.folder,
                    )
            if valid_loss is not None:
                monitor.check_held_out(engine.step, valid_loss)
                saves.note(valid_loss)

            if is_last or engine.step % runtime.save_every == 0:
                with log.paused():
                    saves.save()
            if is_last:
                break


def _sent_to_host(loss: float | Tensor) -> HostCopies:
    """Send a loss to the host, which then need not wait for what a GPU does after it."""
    return HostCopies([torch.as_tensor(loss)], torch.device("cpu"))


class _Saves:
    """Saves of a run: when they are due, and before whatever ends it early."""

    def __init__(
        self,
        engine: Engine[Any],
        *,
        log: MetricLog,
        saver: Saver,
        monitor: DivergenceMonitor,
        warn: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._log = log
        self._saver = saver
        self._monitor = monitor
        self._warn = warn
        self._saved = engine.step  # what a run is resumed from is saved; a new one has nothing yet
        self._valid_losses: dict[int, float] = {}  # by step; of the last validation

    def note(self, valid_loss: float) -> None:
        """Note the held-out loss after the last update, which a save of that step states."""
        self._valid_losses = {self._engine.step: valid_loss}

    def save(self) -> None:
        """Write a checkpoint, with the figures that are not yet reported, and the model folder."""
        state = replace(
            self._engine.state(), unreported=self._log.state(), losses=self._monitor.losses
        )
        step = self._engine.step
        weights = self._engine.inference_weights()
        self._saver.save(state, weights, self._valid_losses.get(step))
        self._saved = step

    def before_stopping(
        self, training: TrainingBatches, stop: StopSignals
    ) -> Generator[Batch, None, None]:
        """Yield the remaining batches; save before raising what ends them early.

        It may be a request to stop or a failure, and ends the batches of all processes.
        """
        try:
            yield from training.start_at(self._engine.step, stop.waiting)
        except StopRequested as request:
            if self._engine.step != self._saved:
                self.save()
            folder = self._saver.folder.root
            raise Interrupted(request.number, self._engine.step, folder) from None
        except Exception:
            self._save_anyway()
            raise

    @contextmanager
    def before_failing(self) -> Iterator[None]:
        """Save before raising an exception of the `with`, which must leave the weights alone.

        Of several processes none does: the others may be waiting for this one elsewhere.
        """
        try:
            yield
        except Exception:
            if self._engine.world.size == 1:
                self._save_anyway()
            raise

    def _save_anyway(self) -> None:
        """Save what is not saved yet; a failure to do so must not hide the one that comes first."""
        step = self._engine.step
        if step == self._saved:
            return
        try:
            self.save()
        except Exception as error:
            self._warn(f"step {step:,} is not saved: {error}")
        else:
            self._warn(f"training ends early; saved after step {step:,}")


def train_step(
    task: Task[ModelT], engine: Engine[ModelT], batch: Batch, micro_batch_size: int
) -> tuple[bool, Metrics]:
    """Update the model by a global batch, in micro-batches.

    Returns whether the update was applied, and its metrics.
    """
    totals = accumulate_gradients(task, engine, batch, micro_batch_size)
    return update(engine, totals, is_discarded=False)


def accumulate_gradients(
    task: Task[ModelT], engine: Engine[ModelT], batch: Batch, micro_batch_size: int
) -> Metrics:
    """Accumulate the gradients of a global batch, and return its metrics over all processes."""
    text_tokens = engine.world.all_reduce_count(batch.global_text_tokens)
    batch = replace(batch, global_text_tokens=text_tokens)

    totals: Metrics = {}
    for micro_batch in batch.micro_batches(micro_batch_size, engine.device):
        loss, metrics = task.loss(micro_batch, engine.step)
        engine.backward(loss)
        for name, value in metrics.items():
            totals[name] = totals.get(name, 0.0) + value
    return dict(engine.world.all_reduce_numbers(totals))


def update(engine: Engine[ModelT], totals: Metrics, *, is_discarded: bool) -> tuple[bool, Metrics]:
    """Apply or discard the accumulated gradients.

    Returns whether they were applied, and the metrics of the update.
    """
    if is_discarded:
        engine.discard()
        is_applied = False
    else:
        engine.observe(totals["train/loss"])
        is_applied = engine.update()
    return is_applied, {**totals, **engine.metrics(), "train/skipped": float(not is_applied)}


def evaluate_if_due(
    task: Task[ModelT],
    engine: Engine[ModelT],
    *,
    validation: ValidationBatches,
    runtime: RuntimeTable,
    is_last: bool,
    log: MetricLog,
    folder: RunDir,
) -> float | None:
    """Report, validate and save a preview, each if it is due after this update.

    Returns the held-out loss if it was measured.
    """
    done, valid_loss = engine.step, None
    if is_last:
        log.report(done)

    if is_last or done % runtime.validate_every == 0:
        with engine.averaged(), torch.no_grad():
            figures = task.validate(validation.on(engine.device), done)
        log.write(done, figures)
        valid_loss = figures["valid/loss"]

    if is_last or done % runtime.preview_every == 0:
        with engine.whole_model() as whole, torch.no_grad():
            if whole is not None:
                picture = task.preview(whole, validation.first(engine.device), done)
                save_preview(picture, folder.preview(done))
                log.preview(done, picture)
    return valid_loss


def save_preview(picture: Image.Image, path: Path) -> None:
    """Write a PNG, complete or not at all, making its folder if need be."""
    make_folder(path.parent)
    write_file(path, to_png(picture))
