"""The step size of each update: the schedule, halved where the training loss stays on a plateau.

Ramesh et al. 2021, appendix B.2, say no more than that it was halved whenever the loss did: what a plateau is, the
recipe says. Goes by the loss of the global batch, which all processes know to the same bit, so that they agree.
"""

import math

from torch import Tensor

from dalle_cli.config import Cosine, OptimizerTable, PlateauTable


def cosine(schedule: Cosine, step: int) -> float:
    """Value in force for update number `step`, counted from 0."""
    progress = min(step / schedule.steps, 1)
    return schedule.end + 0.5 * (schedule.start - schedule.end) * (1 + math.cos(math.pi * progress))


def learning_rate(optimizer: OptimizerTable, step: int) -> float:
    """Step size of update number `step`: the cosine, under a linear ramp that reaches 1 at the last warm-up update."""
    ramp = min((step + 1) / optimizer.warmup_steps, 1) if optimizer.warmup_steps else 1
    return ramp * cosine(optimizer.lr, step)


class LearningRate:
    """What is in force, and how the smoothed loss has come to it."""

    def __init__(self, table: OptimizerTable) -> None:
        self._table = table
        self._smoothed = self._best = math.nan  # until a loss is observed
        self._waited = 0  # updates since the best
        self._halvings = 0

    def at(self, step: int) -> float:
        """Step size of update number `step`, after the losses observed so far."""
        return learning_rate(self._table, step) * 0.5**self._halvings

    def observe(self, step: int, loss: float | Tensor) -> None:
        """Take note of the loss of update number `step`, before it; one that is not finite says nothing.

        While the step size is warming up, the loss is smoothed, but not yet waited for.
        """
        plateau = self._table.plateau
        if plateau is not None and math.isfinite(loss):
            self._follow(plateau, float(loss), is_warming_up=step < self._table.warmup_steps)

    def _follow(self, plateau: PlateauTable, loss: float, is_warming_up: bool) -> None:
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
        """Give what a checkpoint holds of it: nothing before the first loss, or without a plateau to look for."""
        if math.isnan(self._smoothed):
            return {}
        return {
            "plateau_smoothed": self._smoothed,
            "plateau_best": self._best,
            "plateau_waited": self._waited,
            "plateau_halvings": self._halvings,
        }

    def restore(self, numbers: dict[str, int | float]) -> None:
        """Take over what a checkpoint holds, if anything."""
        if self._table.plateau is not None and "plateau_smoothed" in numbers:
            self._smoothed, self._best = (
                float(numbers["plateau_smoothed"]),
                float(numbers["plateau_best"]),
            )
            self._waited, self._halvings = (
                int(numbers["plateau_waited"]),
                int(numbers["plateau_halvings"]),
            )
