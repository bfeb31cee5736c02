"""Halving on plateaus against a slow version, against torch's, and over a restart."""

import math
import random
from typing import Any

import pytest
import torch

from dalle_cli.config import Cosine, OptimizerTable, PlateauTable
from dalle_cli.training.optimization.learning_rate import LearningRate, learning_rate

WARMUP = 7


def table(plateau: PlateauTable | None = None, **changes: Any) -> OptimizerTable:
    lr = Cosine(start=1.0, end=0.5, steps=300)
    plain = {
        "lr": lr,
        "warmup_steps": WARMUP,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "weight_decay": 0.0,
    }
    return OptimizerTable(
        **{**plain, "clip_norm": 0.0, "clip_second_moment": 0.0, "plateau": plateau, **changes}
    )


def plateau(**changes: Any) -> PlateauTable:
    return PlateauTable(
        **{"halvings": 5, "patience": 9, "threshold": 0.05, "smoothing": 0.5, **changes}
    )


def noisy_losses(seed: int, n: int = 200) -> list[float]:
    """A loss that falls in stairs, with noise."""
    chance = random.Random(seed)
    return [3 * 0.8 ** (i // 40) + chance.uniform(-0.2, 0.2) for i in range(n)]


def factors(step_size: LearningRate, losses: list[float], first: int = 0) -> list[float]:
    """Observe losses in turn; give what the schedule is multiplied by at each update."""
    found = []
    for step, loss in enumerate(losses, first):
        step_size.observe(step, loss)
        found.append(step_size.at(step) / learning_rate(table(), step))
    return found


def factors_by_hand(losses: list[float], plateau: PlateauTable, warmup_steps: int) -> list[float]:
    """Look back, at every update, over the smoothed losses since the last halving or real fall."""
    smoothed = [losses[0]]
    for loss in losses[1:]:
        smoothed.append(plateau.smoothing * smoothed[-1] + (1 - plateau.smoothing) * loss)
    best_at = last_event = max(warmup_steps - 1, 0)
    found, halvings = [], 0
    for step in range(len(losses)):
        if step > best_at:
            if smoothed[step] < smoothed[best_at] * (1 - plateau.threshold):
                best_at = last_event = step
            elif step - last_event == plateau.patience and halvings < plateau.halvings:
                halvings, last_event = halvings + 1, step
        found.append(1 / 2**halvings)
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "changes", [{}, {"smoothing": 0.0}, {"threshold": 0.0}, {"patience": 1}, {"halvings": 2}]
)
def test_halvings_match_a_slow_version(seed: int, changes: dict[str, Any]) -> None:
    chosen, losses = plateau(**changes), noisy_losses(seed)
    found = factors(LearningRate(table(chosen)), losses)
    assert found == pytest.approx(factors_by_hand(losses, chosen, WARMUP), rel=1e-12)
    assert found[-1] < 1


@pytest.mark.parametrize("seed", range(4))
def test_halvings_without_smoothing_are_torchs(seed: int) -> None:
    losses, chosen = noisy_losses(seed), plateau(smoothing=0.0, halvings=1000)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=chosen.patience - 1, threshold=chosen.threshold, eps=0.0
    )
    expected = []
    for loss in losses:
        reference.step(loss)
        expected.append(optimizer.param_groups[0]["lr"])
    constant = table(chosen, warmup_steps=0)
    assert factors(LearningRate(constant), losses)[WARMUP:] == pytest.approx(
        expected[WARMUP:], rel=1e-12
    )
    assert expected[-1] < 1


def test_step_size_ends_at_a_32nd_after_the_papers_five_halvings() -> None:
    step_size = LearningRate(table(plateau(), lr=Cosine(start=4.5e-4, end=4.5e-4, steps=1)))
    for step in range(1000):
        step_size.observe(step, 1.0)
    assert step_size.at(1000) == pytest.approx(1.40625e-5, rel=1e-12)


def test_nothing_is_halved_while_warming_up() -> None:
    long = table(plateau(patience=1), warmup_steps=50)
    step_size = LearningRate(long)
    for step in range(50):
        step_size.observe(step, 1.0)
        assert step_size.at(step) == learning_rate(long, step)
    step_size.observe(50, 1.0)
    assert step_size.at(50) == learning_rate(long, 50) / 2


@pytest.mark.parametrize("stop", [1, 5, WARMUP, 20, 37, 60])
def test_restored_one_goes_on_to_the_bit(stop: int) -> None:
    losses, whole, stopped, resumed = (
        noisy_losses(0),
        *(LearningRate(table(plateau())) for _ in range(3)),
    )
    expected = factors(whole, losses)
    before = factors(stopped, losses[:stop])
    resumed.restore(stopped.numbers())
    assert before + factors(resumed, losses[stop:], first=stop) == expected
    assert resumed.numbers() == whole.numbers()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_loss_that_is_not_finite_is_as_if_it_had_not_been(bad: float) -> None:
    clean, disturbed = LearningRate(table(plateau())), LearningRate(table(plateau()))
    for step, loss in enumerate(noisy_losses(1)):
        clean.observe(step, loss)
        disturbed.observe(step, bad)
        disturbed.observe(step, loss)
    assert disturbed.numbers() == clean.numbers()


def test_loss_below_zero_that_rises_is_a_plateau() -> None:
    step_size = LearningRate(table(plateau(), warmup_steps=0))
    for step in range(100):
        step_size.observe(step, -2.0 + step / 100)
    assert step_size.at(0) == learning_rate(table(warmup_steps=0), 0) / 32


def test_without_a_plateau_to_look_for_there_is_the_schedule_and_no_state() -> None:
    step_size = LearningRate(table())
    assert set(factors(step_size, noisy_losses(0))) == {1.0}
    assert step_size.numbers() == {}
