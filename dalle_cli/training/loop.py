"""The one loop that trains every model.

It knows a task, an engine, batches, a log and a saver; not which model, how many processors, or
which precision.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from dalle_cli.config import RuntimeTable
from dalle_cli.data.loader import Batch, TooManyBadSamples, TrainingBatches, ValidationBatches
from dalle_cli.runtime.distributed import World
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
    warn: Callable[[str], None],
) -> None:
    """Run the task to `steps` updates, reporting, validating and saving on the way.

    Raises Interrupted, after saving, when asked to stop, and Diverged, without saving, where a
    loss, a gradient or a weight is not finite.
    """
    monitor = DivergenceMonitor(saver.folder, has_scales=engine.has_scales, warn=warn)
    with StopSignals() as stop:
        for batch in save_before_giving_up(batches.training, engine, log=log, saver=saver):
            stop.step_begins()
            is_applied, metrics = train_step(task, engine, batch, runtime.micro_batch_size)
            stop.step_ends()
            is_last = engine.step == steps
            monitor.check_update(
                engine.step,
                float(metrics["train/loss"]),
                is_applied=is_applied,
                is_last=is_last,
                keys=partial(engine.world.all_gather, batch.keys),
            )
            log.record(engine.step, metrics)
            request = agreed_request(engine.world, stop.requested)

            stopped_by = None if is_last else request
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
                if is_last or stopped_by is not None or engine.step % runtime.save_every == 0:
                    save(engine, log=log, saver=saver, valid_loss=valid_loss)

            if stopped_by is not None:
                raise Interrupted(stopped_by, engine.step, saver.folder.root)


def save_before_giving_up(
    training: TrainingBatches, engine: Engine[ModelT], *, log: MetricLog, saver: Saver
) -> Iterator[Batch]:
    """Yield the remaining batches; if too many samples are bad, save before raising that error."""
    try:
        yield from training.start_at(engine.step)
    except TooManyBadSamples:
        save(engine, log=log, saver=saver, valid_loss=None)
        raise


def save(engine: Engine[ModelT], *, log: MetricLog, saver: Saver, valid_loss: float | None) -> None:
    """Write a checkpoint, with the figures that are not yet reported, and the model folder."""
    state = replace(engine.state(), unreported=log.state())
    saver.save(state, engine.inference_weights(), valid_loss)


def agreed_request(world: World, requested: int | None) -> int | None:
    """Return the signal by which any process was asked to stop, or None; all take part."""
    requests = world.all_gather([] if requested is None else [requested])
    return requests[0] if requests else None


def train_step(
    task: Task[ModelT], engine: Engine[ModelT], batch: Batch, micro_batch_size: int
) -> tuple[bool, Metrics]:
    """Update the model by a global batch, in micro-batches.

    Returns whether the update was applied, and its metrics.
    """
    text_tokens = engine.world.all_reduce_numbers({"text": batch.global_text_tokens})["text"]
    batch = replace(batch, global_text_tokens=int(text_tokens))

    totals: Metrics = {}
    for micro_batch in batch.micro_batches(micro_batch_size, engine.device):
        loss, metrics = task.loss(micro_batch, engine.step)
        engine.backward(loss)
        for name, value in metrics.items():
            totals[name] = totals.get(name, 0.0) + value

    totals = engine.world.all_reduce_numbers(totals)
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
    return valid_loss


def save_preview(picture: Image.Image, path: Path) -> None:
    """Write a PNG, making its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
