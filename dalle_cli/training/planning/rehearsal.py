"""A rehearsal: a few real updates, timed, for a forecast of all of them.

The first updates are slow, since memory is allocated, kernels are chosen and loaders start: they
don't count.
"""

import time
from dataclasses import dataclass
from statistics import median

import torch

from dalle_cli.config import RuntimeTable
from dalle_cli.training.engines.engine import Engine, ModelT
from dalle_cli.training.loop import Batches, train_step
from dalle_cli.training.tasks.task import Task
from dalle_cli.training.throughput import peak_bytes

UNTIMED = 2  # updates at the beginning
FEWEST, MOST = 3, 10  # updates that are timed
LONG_ENOUGH = 8.0  # seconds


@dataclass(frozen=True)
class Rehearsal:
    """What was measured.

    seconds_per_step        of an update, the loading of its batch included
    seconds_per_validation  of a validation and a preview
    peak_bytes              of memory, as in `peak_bytes`; None where the system does not say
    """

    seconds_per_step: float
    seconds_per_validation: float
    peak_bytes: int | None


def rehearse(
    task: Task[ModelT], engine: Engine[ModelT], *, batches: Batches, runtime: RuntimeTable
) -> Rehearsal:
    """Train for a few updates, validate once, and return what they took.

    Every process takes part.
    """
    times: list[float] = []
    begun = last = time.perf_counter()
    for batch in batches.training.start_at(0):
        train_step(task, engine, batch, runtime.micro_batch_size)
        _wait_for(engine.device)
        now = time.perf_counter()
        times.append(now - last)
        last = now
        if _is_enough(len(times), engine.world.broadcast(now - begun)):
            break

    started = time.perf_counter()
    with engine.averaged(), torch.no_grad():
        task.validate(batches.validation.on(engine.device), engine.step)
    with engine.whole_model() as whole, torch.no_grad():
        if whole is not None:
            task.preview(whole, batches.validation.first(engine.device), engine.step)
    _wait_for(engine.device)
    timed = times[UNTIMED:] or times  # a run may be shorter
    return Rehearsal(median(timed), time.perf_counter() - started, peak_bytes(engine.device))


def _is_enough(n_done: int, seconds: float) -> bool:
    n_timed = n_done - UNTIMED
    return n_timed >= MOST or (n_timed >= FEWEST and seconds > LONG_ENOUGH)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
