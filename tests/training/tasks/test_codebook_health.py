"""The watch over a codebook: what it takes for a collapse, when, and how often it says so."""

import pytest

from dalle_cli.training.tasks.codebook_health import CollapseMonitor

STEPS, VOCAB_SIZE = 100, 1000


def told_of(reports: list[tuple[int, dict[str, float]]]) -> list[str]:
    told: list[str] = []
    watch = CollapseMonitor(VOCAB_SIZE, STEPS, told.append)
    for done, figures in reports:
        watch(done, figures)
    return told


def held_out(in_use: float, kl: float = 6.0) -> dict[str, float]:
    return {
        "valid/perplexity": 500.0,
        "valid/perplexity_without_blanks": in_use,
        "valid/kl_per_cell": kl,
    }


def test_collapse_is_told_once_with_both_numbers_and_a_remedy() -> None:
    (told,) = told_of([(20, held_out(2.5)), (40, held_out(2.0))])
    assert all(
        word in told for word in ("2.5", "1000", "`loss.kl_weight`", "`loss.min_log_scale=-1.0`")
    )


@pytest.mark.parametrize(
    ("kl", "remedy"),
    [
        (6.5, "a higher `loss.kl_weight` from the first update on"),  # of ln 1000, 6.9
        (0.2, "a lower `loss.kl_weight` in its first updates"),
    ],
)
def test_remedy_depends_on_how_sure_the_encoder_is(kl: float, remedy: str) -> None:
    (told,) = told_of([(50, held_out(2.5, kl))])
    assert f"with {remedy}," in told


@pytest.mark.parametrize(
    ("done", "in_use", "n_told"), [(9, 1.0, 0), (10, 9.9, 1), (10, 10.1, 0), (100, 1.0, 1)]
)
def test_fewer_than_a_hundredth_of_the_entries_after_a_tenth_of_the_run_are_a_collapse(
    done: int, in_use: float, n_told: int
) -> None:
    assert len(told_of([(done, held_out(in_use))])) == n_told


def test_codebook_that_may_yet_open_is_given_half_the_run() -> None:
    assert told_of([(49, held_out(2.5, kl=1.4))]) == []


def test_reports_of_training_alone_say_nothing_of_the_codebook() -> None:
    assert told_of([(50, {"train/loss": 1.0})]) == []
