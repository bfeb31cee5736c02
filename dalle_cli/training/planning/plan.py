"""From a situation to recipes: a pure function, and the fit of their lengths to a measured pace.

A plan is made in two steps. `plan_training` chooses sizes, and estimates the lengths from the
operations that they take; `fit_steps` replaces the lengths once a few updates have been timed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dalle_cli.config import DVAEModelTable, DVAERecipe, ModelTable, Recipe
from dalle_cli.errors import UsageError
from dalle_cli.loading import largest_table
from dalle_cli.recipe import load_recipe, shipped_recipes
from dalle_cli.runtime.precision import Precision
from dalle_cli.schedules import scale_steps
from dalle_cli.training.planning.cost import model_bytes, sample_bytes, sample_flops
from dalle_cli.training.planning.planned_recipes import SAVES, Length, intervals, planned_recipe
from dalle_cli.training.planning.rehearsal import Rehearsal
from dalle_cli.training.planning.situation import Situation
from dalle_cli.training.planning.sizes import Choice, choose_sizes, limit_for, time_shares

USABLE_MEMORY = 0.7  # of what is free
# random crops of a picture, by the number of pictures: of few, the transformer learns the tokens
# themselves, and more crops only blur them
COPIES = {0: 1, 200: 4, 20_000: 1}
START_SECONDS = 8  # of a command, before its first update


@dataclass(frozen=True)
class Limits:
    """How long a kind of model may train, and in how many updates.

    samples, passes  training ends at the larger of these: beyond, it learns little
    updates          the batch grows where there would be more
    smallest         batch, in samples
    largest          batch of one device, by whether it is a GPU
    """

    samples: int
    passes: int
    updates: int
    smallest: int
    largest: Mapping[bool, int]

    def most_samples(self, n_pictures: int) -> int:
        """Return the number of samples at which training ends, however much time there is."""
        return max(self.samples, self.passes * n_pictures)


LIMITS = {
    "dvae": Limits(80_000, 400, 4_000, 8, {False: 32, True: 64}),
    "transformer": Limits(50_000, 300, 3_000, 8, {False: 32, True: 64}),
    # of photographs, a CLIP had learnt after nine passes what held for others, too
    "clip": Limits(15_000, 20, 500, 32, {False: 128, True: 256}),
}


@dataclass(frozen=True)
class Plan:
    """Recipes in the order in which they are trained, and the reasons for what is in them.

    seconds  that the training of each is expected to take
    copies   random crops of each picture that are encoded for the transformer; 0: it reads pictures
    """

    recipes: Mapping[str, Recipe]
    seconds: Mapping[str, float]
    choices: tuple[Choice, ...]
    copies: int

    @property
    def shares(self) -> Mapping[str, float]:
        """The share of the time that each model trains."""
        dvae = self.recipes["dvae"]
        assert isinstance(dvae, DVAERecipe)
        return time_shares(dvae.model.image_size)


def plan_training(situation: Situation, precision: Precision = "fp32") -> Plan:
    """Choose models, batches and lengths for a situation."""
    tables, choices = choose_sizes(situation)
    dvae = tables["dvae"]
    assert isinstance(dvae, DVAEModelTable)
    shares = time_shares(dvae.image_size)
    machine, n_pictures = situation.machine, situation.pictures.n_samples
    recipes, seconds = {}, {}
    for kind, table in tables.items():
        seconds_per_sample = sample_flops(table) / (machine.flops * machine.n_devices)
        share = shares[kind] * situation.seconds
        n_samples = _n_samples(kind, situation, seconds_per_sample, seconds=share)
        batch_size = _batch_size(kind, situation, n_samples)

        length = Length(
            steps=round_steps(n_samples / batch_size),
            batch_size=batch_size,
            micro_batch_size=_micro_batch_size(kind, table, batch_size, situation, precision),
        )
        recipes[kind] = planned_recipe(table, length, situation)
        seconds[kind] = length.steps * batch_size * seconds_per_sample

    training = recipes["transformer"].training
    n_seen = training.steps * training.global_batch_size
    return Plan(recipes, seconds, tuple(choices), _copies(n_pictures, n_seen))


def plan_like(name: str, situation: Situation) -> Plan:
    """Plan the training of the models of shipped recipes, such as `emoji`.

    Raises UsageError where there are no recipes for a dVAE and a transformer of that name.
    """
    shipped = shipped_recipes()
    if not {f"dvae/{name}", f"transformer/{name}"} <= shipped.keys():
        names = [recipe.partition("/")[2] for recipe in shipped if recipe.startswith("dvae/")]
        complete = [other for other in names if f"transformer/{other}" in shipped]
        message = f"no dVAE and transformer are shipped that are like {name}"
        raise UsageError(message, f"there are {', '.join(complete)}")

    kinds = [kind for kind in LIMITS if f"{kind}/{name}" in shipped]
    n_devices = situation.machine.n_devices
    recipes = {kind: _divisible(load_recipe(f"{kind}/{name}", []), n_devices) for kind in kinds}
    choices = tuple(Choice(kind, f"{kind}/{name}", "as --like asks") for kind in kinds)
    plan = Plan(recipes, {}, choices, 0)
    return replace(plan, copies=limit_for(COPIES, situation.pictures.n_samples))


def _divisible(recipe: Recipe, n_devices: int) -> Recipe:
    """Return a recipe whose batch can be divided among devices, at least as large as it was."""
    batch_size = math.ceil(recipe.training.global_batch_size / n_devices) * n_devices
    training = recipe.training.model_copy(update={"global_batch_size": batch_size})
    return recipe.model_copy(update={"training": training})


def fit_steps(plan: Plan, situation: Situation, rehearsals: Mapping[str, Rehearsal]) -> Plan:
    """Return the plan with as many updates as the time allows at the pace that was measured."""
    recipes, seconds = {}, {}
    for kind, recipe in plan.recipes.items():
        measured, batch_size = rehearsals[kind], recipe.training.global_batch_size
        looking = (SAVES + 1) * measured.seconds_per_validation
        share = plan.shares[kind] * situation.seconds - looking
        seconds_per_sample = measured.seconds_per_step / batch_size
        n_samples = _n_samples(kind, situation, seconds_per_sample, seconds=share)
        steps = round_steps(n_samples / batch_size)

        recipes[kind] = _with_steps(recipe, steps)
        seconds[kind] = steps * measured.seconds_per_step + looking
    return replace(plan, recipes=recipes, seconds=seconds)


def flops_reached(plan: Plan, situation: Situation, rehearsals: Mapping[str, Rehearsal]) -> float:
    """Return the operations a second of each device that the rehearsals of a plan reached.

    It is the mean over the time that the plan gives each model.
    """
    total = sum(plan.shares[kind] for kind in plan.recipes)
    reached = 0.0
    for kind, recipe in plan.recipes.items():
        operations = sample_flops(largest_table(recipe)) * recipe.training.global_batch_size
        reached += plan.shares[kind] / total * operations / rehearsals[kind].seconds_per_step
    return reached / situation.machine.n_devices


def _with_steps(recipe: Recipe, steps: int) -> Recipe:
    """Return a recipe of another length; its schedules are shares of it."""
    scaled = scale_steps(recipe, steps)
    runtime = recipe.runtime.model_copy(update=intervals(steps))
    return scaled.model_copy(update={"runtime": runtime})


def round_steps(steps: float) -> int:
    """Round a number of updates down to two digits: it is an estimate, and should look like one."""
    if steps < 1:
        return 1
    unit = 10 ** max(math.floor(math.log10(steps)) - 1, 0)
    return int(steps // unit * unit)


def _copies(n_pictures: int, n_seen: int) -> int:
    """Return how many random crops of each picture to encode; 0 where encoding would not pay."""
    copies = limit_for(COPIES, n_pictures)
    return copies if n_seen >= 2 * n_pictures * (copies + 1) else 0


def _n_samples(
    kind: str, situation: Situation, seconds_per_sample: float, *, seconds: float
) -> float:
    """Return how many samples a model trains on: what its seconds allow, or what is of use."""
    possible = max(seconds - START_SECONDS, 0) / seconds_per_sample
    return min(possible, LIMITS[kind].most_samples(situation.pictures.n_samples))


def _batch_size(kind: str, situation: Situation, n_samples: float) -> int:
    """Return a batch that gives the usual number of updates: a power of two for each device."""
    limits, machine = LIMITS[kind], situation.machine
    wanted = max(n_samples / limits.updates, limits.smallest)
    allowed = min(
        limits.largest[machine.is_gpu] * machine.n_devices, situation.pictures.n_samples / 2
    )
    for_device = max(min(wanted, allowed) / machine.n_devices, 1)
    return 2 ** math.floor(math.log2(for_device)) * machine.n_devices


def _micro_batch_size(
    kind: str, table: ModelTable, batch_size: int, situation: Situation, precision: Precision
) -> int:
    """Return the largest part of a device's batch that its memory holds; 0: all of it.

    A CLIP's batch can't be cut, and is small.
    """
    machine = situation.machine
    share = batch_size // machine.n_devices
    room = USABLE_MEMORY * machine.memory - model_bytes(table, machine.n_devices)
    held = max(room / sample_bytes(table, precision), 1)
    if kind == "clip" or held >= share:
        return 0
    return 2 ** math.floor(math.log2(held))
