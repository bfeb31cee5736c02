"""Quantities that change with the number of updates (Ramesh et al. 2021, appendices A.2 and B.2)."""

import math

from dalle_cli.config import Cosine, OptimizerTable


def cosine(schedule: Cosine, step: int) -> float:
    """Value in force for update number `step`, counted from 0."""
    progress = min(step / schedule.steps, 1)
    return schedule.end + 0.5 * (schedule.start - schedule.end) * (1 + math.cos(math.pi * progress))


def learning_rate(optimizer: OptimizerTable, step: int) -> float:
    """Step size of update number `step`: the cosine, under a linear ramp that reaches 1 at the last warm-up update."""
    ramp = min((step + 1) / optimizer.warmup_steps, 1) if optimizer.warmup_steps else 1
    return ramp * cosine(optimizer.lr, step)
