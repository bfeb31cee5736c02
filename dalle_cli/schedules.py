"""The lengths of a recipe's schedules: as shares of the run, in updates, scaled and extended.

A recipe states the length of a schedule, and of the warm-up, as a share of `training.steps` or in
updates. Training needs updates: `fix_schedules` is where shares become updates. Recipes are frozen,
so every function here returns another one. Knows nothing of files, nor of how they are trained.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

from dalle_cli.config import (
    Cosine,
    OptimizerTable,
    Recipe,
    Restart,
    Table,
)

RecipeT = TypeVar("RecipeT", bound=Recipe)
TableT = TypeVar("TableT", bound=Table)


def schedules_in(table: Table, prefix: str = "") -> Iterator[tuple[str, Cosine]]:
    """Yield the schedules of a recipe, or of one of its tables, each with its dotted key."""
    for name, value in table:
        if isinstance(value, Cosine):
            yield prefix + name, value
        elif isinstance(value, Table):
            yield from schedules_in(value, f"{prefix}{name}.")


def follows_steps(recipe: Recipe) -> bool:
    """Return whether any schedule, or the warm-up, is a share of the run."""
    shares = [schedule.share for _, schedule in schedules_in(recipe)]
    return any(share is not None for share in [*shares, recipe.optimizer.warmup_share])


def unfinished_schedules(recipe: Recipe) -> list[str]:
    """Describe each schedule that is longer than the run, which would leave it on its way."""
    total = recipe.training.steps
    lengths = {
        f"{key}.steps": schedule.length(total)
        for key, schedule in schedules_in(recipe)
        if schedule.start != schedule.end
    }
    lengths["optimizer.warmup_steps"] = recipe.optimizer.warmup_length(total)
    ends = [restart.after + restart.steps for restart in recipe.optimizer.restarts]
    lengths["optimizer.restarts"] = max(ends, default=0)

    return [
        f"`{key}`: {length:,} updates, and the run would stop at {total / length:.0%} of them: "
        f"`training.steps` is {total:,}"
        for key, length in lengths.items()
        if length > total
    ]


def fix_schedules(recipe: RecipeT) -> RecipeT:
    """Return the recipe with the length of every schedule, and of the warm-up, in updates."""
    total = recipe.training.steps

    def fix(schedule: Cosine) -> Cosine:
        return _change(schedule, steps=schedule.length(total), share=None)

    fixed = _map_schedules(recipe, fix)
    warmup_steps = recipe.optimizer.warmup_length(total)
    optimizer = _change(fixed.optimizer, warmup_steps=warmup_steps, warmup_share=None)
    return _change(fixed, optimizer=optimizer)


def scale_steps(recipe: RecipeT, steps: int) -> RecipeT:
    """Return the recipe for a run of `steps` updates.

    Every length in updates (schedules, warm-up, restarts, the patience of the plateau) keeps its
    share of the run; lengths that are shares keep it anyhow.
    """
    factor = steps / recipe.training.steps

    def scale(n_updates: int) -> int:
        return max(round(n_updates * factor), 1)

    def scale_schedule(schedule: Cosine) -> Cosine:
        if schedule.steps is None:
            return schedule
        return _change(schedule, steps=scale(schedule.steps))

    scaled = _map_schedules(recipe, scale_schedule)
    return _change(
        scaled,
        optimizer=_scale_optimizer(scaled.optimizer, scale),
        training=_change(recipe.training, steps=steps),
    )


def _scale_optimizer(optimizer: OptimizerTable, scale: Callable[[int], int]) -> OptimizerTable:
    """Scale what of the optimizer, except its schedule, is counted in updates."""
    warmup_steps, plateau = optimizer.warmup_steps, optimizer.plateau
    restarts = []
    for restart in optimizer.restarts:
        after = scale(restart.after)
        # both ends are rounded, so that the last one is not beyond the run
        steps = max(scale(restart.after + restart.steps) - after, 1)
        restarts.append(Restart(after=after, steps=steps))
    return _change(
        optimizer,
        warmup_steps=scale(warmup_steps) if warmup_steps else warmup_steps,
        plateau=_change(plateau, patience=scale(plateau.patience)) if plateau else None,
        restarts=restarts,
    )


def extend_recipe(recipe: RecipeT, n_more: int, *, restart_lr: bool) -> RecipeT:
    """Return the recipe of a run that goes `n_more` updates beyond its last step.

    Schedules keep the lengths that they had in the shorter run, and hold their last values.

    restart_lr  whether the learning rate's cosine, with its warm-up, runs once more over the new
                updates
    """
    fixed = fix_schedules(recipe)
    steps, restarts = recipe.training.steps, list(recipe.optimizer.restarts)
    if restart_lr:
        restarts.append(Restart(after=steps, steps=n_more))

    return _change(
        fixed,
        optimizer=_change(fixed.optimizer, restarts=restarts),
        training=_change(recipe.training, steps=steps + n_more),
    )


def _map_schedules(table: TableT, change: Callable[[Cosine], Cosine]) -> TableT:
    """Return a table with every schedule in it, at any depth, changed."""
    changes: dict[str, Table] = {}
    for name, value in table:
        if isinstance(value, Cosine):
            changes[name] = change(value)
        elif isinstance(value, Table):
            changes[name] = _map_schedules(value, change)
    return _change(table, **changes)


def _change(table: TableT, **changes: object) -> TableT:
    """Return a table with other values; they are not checked."""
    return table.model_copy(update=changes)
