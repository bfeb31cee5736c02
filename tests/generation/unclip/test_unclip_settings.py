"""Steps, samplers and guidance: defaults, advice, and what can't be sampled with."""

import math

import pytest

from dalle_cli.errors import UsageError
from dalle_cli.generation.unclip.settings import (
    UnclipSettings,
    choose_unclip_sampling,
    sampling_grid,
)
from dalle_cli.models.diffusion.noise_schedules import noise_schedule, strided_steps
from dalle_cli.storage.model_about import SamplingAdvice


@pytest.mark.parametrize(
    ("n_steps", "asked_for", "expected"), [(1000, None, 250), (40, None, 40), (1000, 27, 27)]
)
def test_grid_has_the_usual_steps_or_all_or_those_asked_for(
    n_steps: int, asked_for: int | None, expected: int
) -> None:
    schedule = noise_schedule("cosine", n_steps)
    grid = sampling_grid(schedule, asked_for, usual=250, option="--steps")
    assert grid.timesteps.tolist() == strided_steps(n_steps, [expected])


def test_more_steps_than_the_schedule_has_are_refused() -> None:
    with pytest.raises(UsageError, match="--steps 41` is more than the 40 steps"):
        sampling_grid(noise_schedule("cosine", 40), 41, usual=250, option="--steps")


@pytest.mark.parametrize(
    "settings",
    [{"guidance": math.nan}, {"prior_guidance": math.inf}, {"guidance": -1}, {"steps": 1},
     {"prior_steps": 0}],
    ids=str,
)  # fmt: skip
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        UnclipSettings(**settings)


def test_advice_holds_where_nothing_else_is_given() -> None:
    advice = SamplingAdvice(guidance=3.0)
    assert choose_unclip_sampling(advice) == UnclipSettings(guidance=3.0)
    assert choose_unclip_sampling(SamplingAdvice()) == UnclipSettings()
    chosen = choose_unclip_sampling(advice, steps=9, sampler="ddim", guidance=1, prior_guidance=0)
    assert chosen == UnclipSettings(9, "ddim", 1, None, 0)
