"""Lengths of schedules: shares made updates, whole runs shortened, lengthened and extended."""

import pytest

from dalle_cli.config import Recipe, Restart
from dalle_cli.errors import UsageError
from dalle_cli.recipe import load_recipe, shipped_recipes
from dalle_cli.schedules import (
    extend_recipe,
    fix_schedules,
    follows_steps,
    scale_steps,
    schedules_in,
    unfinished_schedules,
)
from dalle_cli.training.optimization.learning_rate import cosine, learning_rate

SHIPPED = list(shipped_recipes())
PAPER = [name for name in SHIPPED if name.endswith("/paper")]
every_recipe = pytest.mark.parametrize("name", SHIPPED)


def ends_of(recipe: Recipe) -> dict[str, float]:
    """Where each schedule and the warm-up end, as shares of the run."""
    fixed, total = fix_schedules(recipe), recipe.training.steps
    ends = {key: schedule.steps / total for key, schedule in schedules_in(fixed)}
    ends["warm-up"] = fixed.optimizer.warmup_steps / total
    plateau = fixed.optimizer.plateau
    return ends | ({"patience": plateau.patience / total} if plateau else {})


def last_values(recipe: Recipe) -> dict[str, float]:
    fixed, last = fix_schedules(recipe), recipe.training.steps
    values = {key: cosine(schedule, last) for key, schedule in schedules_in(fixed)}
    return values | {"rate": learning_rate(fixed.optimizer, last)}


@pytest.mark.parametrize("factor", [0.5, 2])
@every_recipe
def test_schedules_follow_the_length_of_the_run(name: str, factor: float) -> None:
    before = load_recipe(name, [])
    steps = round(before.training.steps * factor)
    after = load_recipe(name, [], steps=steps)

    assert after.training.steps == steps
    # a length is a whole number of updates, and at least one
    assert ends_of(after) == pytest.approx(ends_of(before), abs=1 / before.training.steps * 2)
    assert last_values(after) == pytest.approx(last_values(before), rel=1e-12)


@pytest.mark.parametrize("name", [name for name in SHIPPED if name not in PAPER])
def test_every_schedule_of_the_other_recipes_is_a_share(name: str) -> None:
    recipe = load_recipe(name, [])
    assert all(schedule.steps is None for _, schedule in schedules_in(recipe))
    assert recipe.optimizer.warmup_steps is None and follows_steps(recipe)
    by_set = load_recipe(name, [f"training.steps={recipe.training.steps * 2}"])
    assert by_set == load_recipe(name, [], steps=recipe.training.steps * 2)


@pytest.mark.parametrize("name", PAPER)
def test_schedules_of_the_paper_are_in_updates(name: str) -> None:
    recipe = load_recipe(name, [])
    assert not follows_steps(recipe) and fix_schedules(recipe) == recipe
    longer = load_recipe(name, [f"training.steps={recipe.training.steps * 2}"])
    assert longer.optimizer == recipe.optimizer


@every_recipe
def test_fixed_schedules_have_no_share_and_stay_as_they_are(name: str) -> None:
    fixed = fix_schedules(load_recipe(name, []))
    assert not follows_steps(fixed) and fix_schedules(fixed) == fixed


def test_a_schedule_that_the_run_would_cut_off_is_told_with_what_helps() -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe("dvae/paper", ["training.steps=120_000"])
    assert "`optimizer.lr.steps`: 1,200,000 updates, and the run would stop at 10% of them" in (
        caught.value.message
    )
    assert "`loss.temperature.steps`: 150,000" in caught.value.message
    assert "kl_weight" not in caught.value.message
    assert "`--steps 120000`" in caught.value.hint
    assert load_recipe("dvae/paper", [], steps=120_000).optimizer.lr.steps == 48_000


def test_a_constant_schedule_is_never_cut_off_but_a_warm_up_is() -> None:
    one = load_recipe("transformer/tiny", ["optimizer.lr.steps=50"])
    assert unfinished_schedules(one) == []
    with pytest.raises(UsageError, match=r"`optimizer.warmup_steps`: 5,000 updates"):
        load_recipe("transformer/paper", ["training.steps=500"])


def test_overrides_are_applied_to_the_scaled_recipe() -> None:
    recipe = load_recipe("dvae/tiny", ["optimizer.lr.steps=20"], steps=40)
    assert (recipe.optimizer.lr.steps, recipe.optimizer.lr.share) == (20, None)
    again = load_recipe("dvae/tiny", ["optimizer.lr.steps=2", "optimizer.lr.share=0.5"])
    assert (again.optimizer.lr.steps, again.optimizer.lr.share) == (None, 0.5)


def test_two_lengths_of_one_run_are_refused() -> None:
    with pytest.raises(UsageError, match=r"`--steps 5` contradicts `--set training.steps`"):
        load_recipe("dvae/tiny", ["training.steps=6"], steps=5)


def test_an_extended_run_holds_the_last_values() -> None:
    recipe = load_recipe("dvae/tiny", [])
    longer = extend_recipe(recipe, 12, restart_lr=False)
    before, after = fix_schedules(recipe), fix_schedules(longer)
    assert longer.training.steps == 20
    for step in range(30):
        assert learning_rate(after.optimizer, step) == learning_rate(before.optimizer, step)
        assert cosine(after.loss.kl_weight, step) == cosine(before.loss.kl_weight, step)
    assert learning_rate(after.optimizer, 19) == recipe.optimizer.lr.end


def test_a_restarted_learning_rate_begins_again_with_its_warm_up() -> None:
    recipe = load_recipe("dvae/tiny", [])
    first = fix_schedules(recipe).optimizer
    again = extend_recipe(recipe, 8, restart_lr=True).optimizer
    rates = [learning_rate(first, step) for step in range(8)]
    assert [learning_rate(again, step) for step in range(16)] == rates * 2
    assert learning_rate(again, 16) == recipe.optimizer.lr.end


def test_a_run_can_be_extended_twice() -> None:
    once = extend_recipe(load_recipe("dvae/tiny", []), 4, restart_lr=True)
    twice = extend_recipe(once, 6, restart_lr=True)
    assert twice.training.steps == 18 and unfinished_schedules(twice) == []
    assert twice.optimizer.restarts == [Restart(after=8, steps=4), Restart(after=12, steps=6)]
    rates = [learning_rate(twice.optimizer, step) for step in range(18)]
    assert rates[:12] == [learning_rate(once.optimizer, step) for step in range(12)]
    assert rates[12] == rates[8] == rates[0]

    half = scale_steps(twice, 9)
    assert half.optimizer.restarts == [Restart(after=4, steps=2), Restart(after=6, steps=3)]
