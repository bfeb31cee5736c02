"""Doubts about a plan; making one is tested with the command."""

import pytest

from dalle_cli.recipe import load_recipe
from dalle_cli.training.planning.plan import Plan
from dalle_cli.training.planning.planner import MeasuredPlan
from dalle_cli.training.planning.situation import Machine, Pictures, Situation

MACHINE = Machine("cpu", 1, 2**33, 1e11)


def doubts_of(steps: int, n_samples: int) -> list[tuple[str, str]]:
    pictures = Pictures(n_samples, side=64, flatness=0, n_captions=9, n_words=9, caption_words=3)
    plan = Plan({"dvae": load_recipe("dvae/demo", [], steps=steps)}, {}, (), 0)
    return MeasuredPlan(plan, Situation(pictures, MACHINE, 900), {}, {}).doubts()


@pytest.mark.parametrize(
    ("steps", "n_samples", "doubt", "hint"),
    [
        (100, 50, "100 steps teach the dvae next to nothing", "`--hours 0.8`"),
        (1_000, 320_000, "the dvae sees 32,000 of 320,000 pictures in the time", "`--hours 2.5`"),
    ],
)
def test_too_little_time_is_said_with_what_would_do(
    steps: int, n_samples: int, doubt: str, hint: str
) -> None:
    [(found, helps)] = doubts_of(steps, n_samples)
    assert found == doubt and helps.startswith(hint)


def test_enough_time_raises_no_doubt() -> None:
    assert doubts_of(1_000, 1_000) == []
