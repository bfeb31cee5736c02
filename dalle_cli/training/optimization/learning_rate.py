"""The learning rate of each update: a schedule, halved when the training loss reaches a plateau.

Lengths are in updates here, as `schedules.fix_schedules` makes them.

Ramesh et al. 2021, appendix B.2, say only that it was halved whenever the loss plateaued: what
counts as a plateau, the recipe says. It depends on the loss of the global batch, which all
processes know to the same bit, so that they agree.
"""

import math

from torch import Tensor

from dalle_cli.config import Cosine, OptimizerTable, PlateauTable, Restart


def cosine(schedule: Cosine, step: int) -> float:
    """Return the value of a schedule at update number `step`, counted from 0."""
    assert schedule.steps is not None  # as in a recipe with fixed schedules
    progress = min(step / schedule.steps, 1)
    return schedule.end + 0.5 * (schedule.start - schedule.end) * (1 + math.cos(math.pi * progress))


def learning_rate(optimizer: OptimizerTable, step: int) -> float:
    """Return the scheduled learning rate at update number `step`.

    A cosine, under a linear ramp that reaches 1 at the last warm-up update; a restart begins both
    again.
    """
    restart = _latest_restart(optimizer, step)
    if restart is None:
        return _ramp(optimizer, step) * cosine(optimizer.lr, step)

    schedule = optimizer.lr.model_copy(update={"steps": restart.steps})
    since = step - restart.after
    return _ramp(optimizer, since) * cosine(schedule, since)


def is_warming_up(optimizer: OptimizerTable, step: int) -> bool:
    """Return whether update number `step` is in the warm-up, or in that of a restart."""
    restart = _latest_restart(optimizer, step)
    return step - (restart.after if restart else 0) < (optimizer.warmup_steps or 0)


def _ramp(optimizer: OptimizerTable, step: int) -> float:
    return min((step + 1) / optimizer.warmup_steps, 1) if optimizer.warmup_steps else 1


def _latest_restart(optimizer: OptimizerTable, step: int) -> Restart | None:
    begun = [restart for restart in optimizer.restarts if restart.after <= step]
    return max(begun, key=lambda restart: restart.after, default=None)


class LearningRate:
    """Learning-rate schedule that halves on plateaus of the smoothed loss."""

    def __init__(self, table: OptimizerTable) -> None:
        self._table = table
        self._smoothed = self._best = math.nan  # until a loss is observed
        self._waited = 0  # updates since the best
        self._halvings = 0

    def at(self, step: int) -> float:
        """Return the learning rate of update number `step`, after the losses observed so far."""
        return learning_rate(self._table, step) * 0.5**self._halvings

    def observe(self, step: int, loss: float | Tensor) -> None:
        """Record the loss of update number `step`, before that update; ignores a non-finite loss.

        During warm-up the loss is smoothed, but no plateau is counted.
        """
        plateau = self._table.plateau
        if plateau is not None and math.isfinite(loss):
            self._follow(plateau, float(loss), is_warming_up=is_warming_up(self._table, step))

    def _follow(self, plateau: PlateauTable, loss: float, *, is_warming_up: bool) -> None:
        if math.isnan(self._smoothed):
            self._smoothed = self._best = loss
            return

        self._smoothed += (1 - plateau.smoothing) * (loss - self._smoothed)
        has_fallen = self._smoothed < self._best - plateau.threshold * abs(self._best)
        if has_fallen or is_warming_up:
            self._best, self._waited = self._smoothed, 0
            return

        self._waited += 1
        if self._waited == plateau.patience and self._halvings < plateau.halvings:
            self._halvings, self._waited = self._halvings + 1, 0

    def numbers(self) -> dict[str, int | float]:
        """Return what a checkpoint stores: nothing before the first loss, or without a plateau."""
        if math.isnan(self._smoothed):
            return {}
        return {
            "plateau_smoothed": self._smoothed,
            "plateau_best": self._best,
            "plateau_waited": self._waited,
            "plateau_halvings": self._halvings,
        }

    def restore(self, numbers: dict[str, int | float]) -> None:
        """Restore what a checkpoint stores, if it stores anything of this."""
        if self._table.plateau is not None and "plateau_smoothed" in numbers:
            self._smoothed = float(numbers["plateau_smoothed"])
            self._best = float(numbers["plateau_best"])
            self._waited = int(numbers["plateau_waited"])
            self._halvings = int(numbers["plateau_halvings"])
