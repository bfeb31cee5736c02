"""Schedules against the specification's table of values."""

import math

import pytest

from dalle_cli.config import Cosine, OptimizerTable
from dalle_cli.training.optimization.learning_rate import cosine, learning_rate

KL_WEIGHT = Cosine(start=0.0, end=6.6, steps=5000)
TEMPERATURE = Cosine(start=1.0, end=1 / 16, steps=150_000)
STEP_SIZE = Cosine(start=1e-4, end=1.25e-6, steps=1_200_000)


def optimizer(lr: Cosine, warmup_steps: int) -> OptimizerTable:
    switched_off = {"weight_decay": 0.0, "clip_norm": 0.0, "clip_second_moment": 0.0}
    return OptimizerTable(
        lr=lr, warmup_steps=warmup_steps, betas=[0.9, 0.999], eps=1e-8, **switched_off
    )


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (KL_WEIGHT, [0, 0.966548, 3.3, 5.633452, 6.6]),
        (TEMPERATURE, [1, 0.862706, 0.53125, 0.199794, 0.0625]),
        (STEP_SIZE, [1e-4, 8.55384e-5, 5.0625e-5, 1.57116e-5, 1.25e-6]),
    ],
    ids=["kl_weight", "temperature", "lr"],
)
def test_cosine_matches_the_specified_values(schedule: Cosine, values: list[float]) -> None:
    found = [cosine(schedule, schedule.steps * quarter // 4) for quarter in range(5)]
    assert found == pytest.approx(values, rel=2e-6, abs=1e-12)


@pytest.mark.parametrize("schedule", [KL_WEIGHT, TEMPERATURE, STEP_SIZE])
@pytest.mark.parametrize("beyond", [0, 1, 10**9])
def test_the_last_value_is_held(schedule: Cosine, beyond: int) -> None:
    assert cosine(schedule, schedule.steps + beyond) == pytest.approx(schedule.end, rel=1e-12)


def test_a_schedule_from_a_value_to_itself_is_constant() -> None:
    assert [cosine(Cosine(start=1e-3, end=1e-3, steps=1), step) for step in range(5)] == [1e-3] * 5


def test_warm_up_is_a_ramp_that_is_whole_at_its_last_update() -> None:
    constant = Cosine(start=1.0, end=1.0, steps=1)
    table = optimizer(constant, warmup_steps=5)
    assert [learning_rate(table, step) for step in range(7)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1, 1, 1]
    )


def test_without_warm_up_the_first_update_has_the_full_step_size() -> None:
    assert learning_rate(optimizer(STEP_SIZE, warmup_steps=0), 0) == pytest.approx(1e-4)


def test_the_ramp_multiplies_the_cosine() -> None:
    table = optimizer(Cosine(start=2.0, end=1.0, steps=10), warmup_steps=8)
    for step in range(20):
        falling = 1.5 + 0.5 * math.cos(math.pi * min(step, 10) / 10)
        assert learning_rate(table, step) == pytest.approx(min((step + 1) / 8, 1) * falling)
