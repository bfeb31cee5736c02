"""Forecasts of time and disk, and what is doubtful in a run."""

import pytest

from dalle_cli.recipe import load_recipe
from dalle_cli.training.planning.cost import count_parameters
from dalle_cli.training.planning.forecast import (
    Amount,
    Forecast,
    checkpoints_bytes,
    estimated_seconds_per_step,
    forecast,
)
from dalle_cli.training.planning.situation import EFFICIENCY

RECIPE = load_recipe("dvae/demo", [])


def test_time_is_that_of_all_steps_and_validations() -> None:
    recipe = load_recipe("dvae/demo", ["runtime.validate_every=1000"], steps=2500)
    expected = forecast(recipe, 0.1, seconds_per_validation=2.0)
    assert expected.seconds == pytest.approx(2500 * 0.1 + 3 * 2.0)  # after 1000, 2000 and 2500


def test_disk_holds_the_kept_checkpoints_the_best_and_the_next() -> None:
    n_parameters = count_parameters(RECIPE.model)
    assert checkpoints_bytes(RECIPE) == 4 * (4 * 4 * n_parameters)


def test_estimated_pace_follows_batch_and_rate() -> None:
    pace = estimated_seconds_per_step(RECIPE, 1e12)
    double = load_recipe("dvae/demo", ["training.global_batch_size=64"])
    assert estimated_seconds_per_step(double, 1e12) == pytest.approx(2 * pace)
    assert estimated_seconds_per_step(RECIPE, 2e12) == pytest.approx(pace / 2)
    assert pace * EFFICIENCY * 1e12 > 32 * 1e6  # of 32 pictures, in operations


@pytest.mark.parametrize(
    ("n_training", "n_held_out", "words"),
    [
        (20, 100, ["passes over 20 samples", "a batch of 32 holds each of 20"]),
        (5_000, 3, ["held-out figures of 3 samples"]),
        (5_000, 1, ["held-out figures of 1 sample say"]),
        (5_000, 100, []),
    ],
)
def test_what_makes_no_sense_is_said_with_what_helps(
    n_training: int, n_held_out: int, words: list[str]
) -> None:
    doubts = Amount(RECIPE, n_training, n_held_out).doubts()
    assert len(doubts) == len(words)
    for (doubt, hint), expected in zip(doubts, words, strict=True):
        assert expected in doubt and "`--" in hint


def test_few_samples_of_a_source_of_their_own_are_not_made_more_by_a_share() -> None:
    [(_, hint)] = Amount(RECIPE, 5_000, 3, has_valid=True).doubts()
    assert "`--valid`" in hint and "validation_share" not in hint


def test_forecast_of_a_run_half_done_is_of_the_other_half() -> None:
    steps = RECIPE.training.steps
    whole, half = forecast(RECIPE, 2.0), forecast(RECIPE, 2.0, steps_done=steps // 2)
    assert (whole.seconds, half.seconds) == (2.0 * steps, 2.0 * (steps - steps // 2))
    assert forecast(RECIPE, 2.0, steps_done=steps, seconds_per_validation=1.0).seconds == 0


def test_hint_for_passes_removes_the_doubt() -> None:
    amount = Amount(RECIPE, 40, 10)
    [(_, hint)] = amount.doubts()
    steps = int(hint.split("--steps ")[1].split("`")[0])
    assert not Amount(load_recipe("dvae/demo", [], steps=steps), 40, 10).doubts()


def test_weeks_and_full_disks_are_doubtful() -> None:
    weeks = Forecast(20 * 86400, None, 0).doubts(RECIPE, free_disk=1)
    assert "20 days on this machine" in weeks[0][0] and "`--steps" in weeks[0][1]
    full = Forecast(60.0, None, 2**31).doubts(RECIPE, free_disk=2**30)
    assert full[0][0] == "the checkpoints will take 2 GiB, and 1 GiB are free"
    [(small, _)] = Forecast(60.0, None, 3 * 2**20).doubts(RECIPE, free_disk=2**17)
    assert small == "the checkpoints will take 3 MiB, and 128 KiB are free"
    assert Forecast(60.0, None, 2**20).doubts(RECIPE, free_disk=2**30) == []
