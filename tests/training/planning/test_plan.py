"""Plans for a table of situations: from forty pictures on a laptop to millions on eight GPUs."""

import dataclasses
import tomllib
from functools import cache

import pytest

from dalle_cli.commands.reports.model_facts import model_facts
from dalle_cli.errors import UsageError
from dalle_cli.loading import largest_table
from dalle_cli.recipe import parse_recipe
from dalle_cli.schedules import unfinished_schedules
from dalle_cli.training.planning.cost import model_bytes, sample_bytes
from dalle_cli.training.planning.plan import (
    Plan,
    fit_steps,
    flops_reached,
    plan_like,
    plan_training,
    round_steps,
)
from dalle_cli.training.planning.planned_recipes import planned_text
from dalle_cli.training.planning.rehearsal import Rehearsal
from dalle_cli.training.planning.situation import Machine, Pictures, Situation

GIB = 2**30
MACHINES = {
    "cpu": (Machine("cpu", 1, 8 * GIB, 1.5e11), 900.0),
    "gpu": (Machine("cuda", 1, 75 * GIB, 6e13), 7200.0),
    "small gpu": (Machine("cuda", 1, 7 * GIB, 8e12), 7200.0),
    "eight gpus": (Machine("cuda", 8, 75 * GIB, 6e13), 7200.0),
}
COUNTS = (40, 1_000, 100_000, 10_000_000)
SIDES = (64, 256, 1_000)
# the machine matters most with the largest pictures; sides are told apart on one machine
TABLE = [(n, 1_000, machine) for n in COUNTS for machine in MACHINES] + [
    (n, side, "gpu") for n in COUNTS for side in SIDES[:2]
]


def situation(n_samples: int, side: int, machine: str, *, flatness: float = 0.1) -> Situation:
    pictures = Pictures(
        n_samples,
        side=side,
        flatness=flatness,
        n_captions=min(3 * n_samples, 15_000),
        n_words=min(100 + n_samples, 20_000),
        caption_words=14,
    )
    return Situation(pictures, *MACHINES[machine])


@cache
def plan_of(n_samples: int, side: int, machine: str) -> Plan:
    return plan_training(situation(n_samples, side, machine), "bf16")


@pytest.mark.thorough
@pytest.mark.parametrize(("n_samples", "side", "machine"), TABLE)
def test_planned_recipes_are_recipes_that_fit_the_device(
    n_samples: int, side: int, machine: str
) -> None:
    devices = MACHINES[machine][0]
    for recipe in plan_of(n_samples, side, machine).recipes.values():
        assert parse_recipe(recipe.model_dump(exclude_none=True), source="test") == recipe
        assert not unfinished_schedules(recipe)
        assert model_facts(largest_table(recipe))["kind"] == recipe.kind

        table, training = largest_table(recipe), recipe.training
        assert training.global_batch_size % devices.n_devices == 0
        share = training.global_batch_size // devices.n_devices
        batch = recipe.runtime.micro_batch_size or share
        needed = model_bytes(table, devices.n_devices) + batch * sample_bytes(table, "bf16")
        assert needed <= devices.memory


@pytest.mark.parametrize(("n_samples", "side", "machine"), TABLE)
def test_models_of_a_plan_fit_each_other_and_the_time(
    n_samples: int, side: int, machine: str
) -> None:
    plan = plan_of(n_samples, side, machine)
    dvae, transformer = plan.recipes["dvae"].model, plan.recipes["transformer"].model
    assert dvae.vocab_size == transformer.image_vocab_size
    assert dvae.image_size // 2 ** (dvae.n_groups - 1) == transformer.grid_size
    assert dvae.image_size <= max(side, 32)
    assert 0 < sum(plan.seconds.values()) <= MACHINES[machine][1]


def test_larger_machines_get_larger_models() -> None:
    plans = [plan_of(100_000, 1_000, machine) for machine in ("cpu", "gpu", "eight gpus")]
    for kind, size in (("dvae", "image_size"), ("transformer", "d_model")):
        sizes = [getattr(plan.recipes[kind].model, size) for plan in plans]
        assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_each_gpu_gets_the_batch_of_one() -> None:
    one, eight = (plan_of(10_000_000, 1_000, machine).recipes for machine in ("gpu", "eight gpus"))
    for kind, recipe in one.items():
        size = recipe.training.global_batch_size
        assert eight[kind].training.global_batch_size == 8 * size


def test_few_pictures_get_no_clip_and_small_models() -> None:
    few, many = plan_of(40, 1_000, "gpu"), plan_of(10_000_000, 1_000, "gpu")
    assert "clip" not in few.recipes and "clip" in many.recipes
    assert few.recipes["transformer"].model.d_model < many.recipes["transformer"].model.d_model
    assert sum(few.seconds.values()) < MACHINES["gpu"][1] / 2  # no more to be learnt


@pytest.mark.thorough
def test_drawings_get_smaller_cells_than_photographs() -> None:
    drawings = plan_training(situation(1_000, 256, "gpu", flatness=0.5), "bf16")
    photographs = plan_training(situation(1_000, 256, "gpu", flatness=0.02), "bf16")
    grids = [plan.recipes["transformer"].model.grid_size for plan in (drawings, photographs)]
    assert grids == [32, 16]


def test_transformer_of_small_pictures_trains_three_times_as_long_as_their_dvae() -> None:
    small, larger = plan_of(10_000_000, 32, "cpu"), plan_of(10_000_000, 64, "gpu")
    assert small.seconds["transformer"] > 2.8 * small.seconds["dvae"]
    assert larger.seconds["transformer"] < 2 * larger.seconds["dvae"]


def test_every_choice_has_a_reason() -> None:
    for choice in plan_of(1_000, 256, "gpu").choices:
        assert choice.what and choice.value and choice.reason


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_steps_follow_the_pace_that_was_measured(factor: float) -> None:
    asked = situation(10_000_000, 1_000, "gpu")
    plan = plan_of(10_000_000, 1_000, "gpu")
    paces = {
        kind: plan.seconds[kind] / recipe.training.steps for kind, recipe in plan.recipes.items()
    }
    measured = {kind: Rehearsal(pace * factor, 0.0, 0) for kind, pace in paces.items()}
    fitted = fit_steps(plan, asked, measured)
    for kind, recipe in fitted.recipes.items():
        before = plan.recipes[kind].training.steps
        assert recipe.training.steps == pytest.approx(before / factor, rel=0.1)
        assert fitted.seconds[kind] == pytest.approx(plan.seconds[kind], rel=0.1)
        assert recipe.runtime.save_every <= recipe.training.steps
        assert not unfinished_schedules(recipe)

    reached = flops_reached(plan, asked, measured)
    assert reached == pytest.approx(asked.machine.flops / factor, rel=0.01)


def test_time_for_validation_is_taken_from_the_steps() -> None:
    asked, plan = situation(10_000_000, 1_000, "gpu"), plan_of(10_000_000, 1_000, "gpu")
    quick = {kind: Rehearsal(0.1, 0.0, 0) for kind in plan.recipes}
    slow = {kind: Rehearsal(0.1, 30.0, 0) for kind in plan.recipes}
    few, many = fit_steps(plan, asked, slow), fit_steps(plan, asked, quick)
    for kind in ("dvae", "transformer"):
        assert few.recipes[kind].training.steps < many.recipes[kind].training.steps
        assert few.seconds[kind] == pytest.approx(many.seconds[kind], rel=0.1)


@pytest.mark.parametrize(("steps", "rounded"), [(0.3, 1), (7.9, 7), (99.5, 99), (2468, 2400)])
def test_steps_are_rounded_down_to_two_digits(steps: float, rounded: int) -> None:
    assert round_steps(steps) == rounded


def test_like_takes_the_models_of_shipped_recipes() -> None:
    asked = situation(1_000, 256, "cpu")
    plan = plan_like("demo", asked)
    fitted = fit_steps(plan, asked, {kind: Rehearsal(0.1, 0.0, 0) for kind in plan.recipes})
    assert fitted.recipes["dvae"].model == plan.recipes["dvae"].model
    assert fitted.recipes["dvae"].training.steps != plan.recipes["dvae"].training.steps
    with pytest.raises(UsageError, match="that are like nothing"):
        plan_like("nothing", asked)


def test_recipe_is_written_under_comments_and_read_again() -> None:
    recipe = plan_of(1_000, 256, "gpu").recipes["transformer"]
    text = planned_text(recipe, ["a reason", "", "another"])
    assert text.startswith("# a reason\n#\n# another\n")
    assert parse_recipe(tomllib.loads(text), source="test") == recipe


@pytest.mark.thorough
def test_situations_differ_by_time_alone() -> None:
    asked = situation(1_000, 256, "cpu")
    longer = dataclasses.replace(asked, seconds=36_000.0)
    plans = plan_training(asked), plan_training(longer)
    widths = [plan.recipes["dvae"].model.n_hidden for plan in plans]
    assert widths[0] < widths[1]
