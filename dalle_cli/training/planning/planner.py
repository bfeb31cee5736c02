"""Makes the plan of `dalle train`: looks at data and machine, plans, times a few updates, fits.

Nothing is written.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dalle_cli.data.sources import Columns, open_dataset, validation_split
from dalle_cli.runtime.devices import choose_device, open_device
from dalle_cli.runtime.distributed import single_process
from dalle_cli.training.planning.chain import chosen_captions
from dalle_cli.training.planning.plan import (
    Plan,
    fit_steps,
    flops_reached,
    plan_like,
    plan_training,
)
from dalle_cli.training.planning.rehearsal import Rehearsal
from dalle_cli.training.planning.situation import Situation, look_at_machine, survey
from dalle_cli.training.planning.trial import try_plan
from dalle_cli.training.run import TrainOptions
from dalle_cli.training.run_data import Portion, RunData

HOURS = {"cpu": 0.25, "cuda": 2.0}  # by default
FEW_STEPS = 300
WRONG = 1.5  # factor by which the estimated rate may be off before the sizes are chosen again


@dataclass(frozen=True)
class MeasuredPlan:
    """A plan, what it was made for, and what a few updates of each model took.

    captions  that are generated at the end, by group
    """

    plan: Plan
    situation: Situation
    rehearsals: Mapping[str, Rehearsal]
    captions: Mapping[str, list[str]]

    @property
    def seconds(self) -> float:
        """The time that everything is expected to take."""
        rest = 1 - sum(self.plan.shares.values())
        return sum(self.plan.seconds.values()) + rest * self.situation.seconds

    def doubts(self) -> list[tuple[str, str]]:
        """Return what makes no sense in the plan, each with what helps."""
        hours, n_samples = self.situation.seconds / 3600, self.situation.pictures.n_samples
        found = []
        for kind, recipe in self.plan.recipes.items():
            training = recipe.training
            seen = training.steps * training.global_batch_size
            if training.steps < FEW_STEPS:
                longer = math.ceil(10 * hours * FEW_STEPS / training.steps) / 10
                doubt = f"{training.steps:,} steps teach the {kind} next to nothing"
                found.append((doubt, f"`--hours {longer:g}`"))
            elif seen < n_samples:
                doubt = f"the {kind} sees {seen:,} of {n_samples:,} pictures in the time"
                found.append((doubt, f"`--hours {hours * n_samples / seen:.2g}` for all of them"))
        return found


def make_plan(
    options: TrainOptions, *, hours: float | None, like: str | None, n_devices: int
) -> MeasuredPlan:
    """Plan the training on some data, for this machine.

    options  the data and the device; no run is in its folder yet
    hours    None: what is usual for the device
    like     the name of shipped recipes whose models are trained; None: models are chosen

    Raises DalleError where the data can't be trained on, and UsageError for an unknown name.
    """
    device = choose_device(options.device)
    _, precision = open_device(options.device, "auto")
    columns = Columns(options.image_column, options.caption_column)
    source = open_dataset(
        options.data[0], captions_required=True, columns=columns, exclude=options.exclude
    )
    machine = look_at_machine(device, precision, n_devices)
    seconds = 3600 * (HOURS[device.type] if hours is None else hours)
    situation = Situation(survey(source), machine, seconds)

    world = single_process(device)
    plan = plan_like(like, situation) if like else plan_training(situation, precision)
    rehearsals = try_plan(plan, options, world, n_devices=n_devices)
    reached = flops_reached(plan, situation, rehearsals)
    if like is None and not 1 / WRONG < reached / machine.flops < WRONG:
        situation = replace(situation, machine=replace(machine, flops=reached))
        plan = plan_training(situation, precision)
        rehearsals = try_plan(plan, options, world, n_devices=n_devices)

    fitted = fit_steps(plan, situation, rehearsals)
    share = fitted.recipes["transformer"].data.validation_share
    data = RunData(*(Portion(source, indices) for indices in validation_split(source, share)))
    return MeasuredPlan(fitted, situation, rehearsals, chosen_captions(data))
