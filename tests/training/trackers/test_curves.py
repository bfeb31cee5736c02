"""Curves of runs that stop and go on: each figure is sent once, and none is missing."""

from dataclasses import replace
from pathlib import Path

import pytest
from sent import lines_of, sent

from dalle_cli.console import Terminal
from dalle_cli.errors import DalleError
from dalle_cli.storage.metrics_file import append_report
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training.trackers.choice import TRACKERS
from dalle_cli.training.trackers.curves import open_curves


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    (tmp_path / "run").mkdir()
    return RunDir(tmp_path / "run")


def train(run: RunDir, begin: int, end: int, *names: str, name: str = "wandb") -> None:
    """Report the steps from the one after `begin` to `end`."""
    with open_curves(name, run, begin, recipe={"kind": "dvae"}, terminal=Terminal()) as curves:
        for step in range(begin + 1, end + 1):
            for figure in names or ("train/loss",):
                curves.report(step, {figure: float(step)})


def losses(steps: range) -> dict[tuple[int, str], float]:
    return {(step, "train/loss"): float(step) for step in steps}


def test_run_that_was_killed_after_its_checkpoint_sends_nothing_twice(
    run: RunDir, stand_ins: Path
) -> None:
    train(run, 0, 6)
    train(run, 4, 9)
    train(run, 9, 10)
    assert sent(stand_ins) == losses(range(1, 11))


def test_figures_of_the_step_at_which_it_was_killed_are_completed(
    run: RunDir, stand_ins: Path
) -> None:
    """As when it is killed while it validates: after one report of a step, before another."""
    train(run, 0, 3)
    train(run, 2, 4, "train/loss", "valid/loss")
    of_both = {(step, name) for step in (3, 4) for name in ("train/loss", "valid/loss")}
    assert set(sent(stand_ins)) == of_both | {(1, "train/loss"), (2, "train/loss")}


def test_what_was_trained_without_it_is_sent_first(run: RunDir, stand_ins: Path) -> None:
    for step in range(1, 8):
        append_report(run.metrics, step, {"train/loss": float(step)})
    train(run, 5, 6)  # the last two lines are those of a run that was killed
    assert sent(stand_ins) == losses(range(1, 7))
    assert [line["step"] for line in lines_of(stand_ins) if "step" in line] == [*range(1, 7)]


def test_gap_of_a_start_without_it_is_filled(run: RunDir, stand_ins: Path) -> None:
    train(run, 0, 2)
    for step in range(1, 6):
        append_report(run.metrics, step, {"train/loss": float(step)})
    train(run, 5, 6)
    assert sent(stand_ins) == losses(range(1, 7))


def test_tracker_that_is_rewound_gets_the_later_steps_again(
    run: RunDir, stand_ins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TRACKERS, "wandb", replace(TRACKERS["wandb"], can_rewind=True))
    train(run, 0, 6)
    train(run, 4, 7)
    steps = [line["step"] for line in lines_of(stand_ins) if "step" in line]
    assert steps == [1, 2, 3, 4, 5, 6, 5, 6, 7]


def test_run_is_known_by_an_id_of_its_own(run: RunDir, stand_ins: Path, tmp_path: Path) -> None:
    (tmp_path / "other" / "run").mkdir(parents=True)
    train(run, 0, 2)
    train(RunDir(tmp_path / "other" / "run"), 0, 2)
    train(run, 2, 3)
    ids = [line["run"] for line in lines_of(stand_ins) if "name" in line]
    assert ids[0] == ids[2] != ids[1]


def test_trackers_do_not_know_of_one_another(run: RunDir, stand_ins: Path) -> None:
    train(run, 0, 2)
    train(run, 2, 3, name="trackio")
    train(run, 2, 4)
    runs = [line["run"] for line in lines_of(stand_ins) if line.get("step") == 3]
    assert len(set(runs)) == 2
    assert [name.startswith("run-") for name in runs].count(True) == 1


@pytest.mark.parametrize("content", ["", "[]", '{"wandb": 1}', '{"wandb": {"id": "a"}}', "\0"])
def test_damaged_note_of_what_was_sent_begins_anew(
    content: str, run: RunDir, stand_ins: Path
) -> None:
    run.logged.write_text(content)
    train(run, 0, 2)
    train(run, 2, 3)
    assert sent(stand_ins) == losses(range(1, 4))


def test_figures_that_are_not_finite_are_left_out(run: RunDir, stand_ins: Path) -> None:
    with open_curves("wandb", run, 0, recipe={"kind": "dvae"}, terminal=Terminal()) as curves:
        curves.report(1, {"train/loss": float("nan"), "train/lr": 0.1})
        curves.report(2, {"train/loss": float("inf")})
    assert sent(stand_ins) == {(1, "train/lr"): 0.1}


def test_tracker_that_fails_is_warned_of_and_left_alone(
    run: RunDir,
    stand_ins: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("STAND_IN_FAILS_AT", "3")
    train(run, 0, 6)
    assert capsys.readouterr().err.count("nothing more is sent to wandb: the server") == 1
    assert sent(stand_ins) == losses(range(1, 3))


def test_tracker_that_cannot_begin_is_an_error(
    run: RunDir, stand_ins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_FAILS_AT", "init")
    with pytest.raises(DalleError, match="`--log wandb` does not work here: no one is logged in"):
        train(run, 0, 1)


def test_without_a_tracker_nothing_is_written(run: RunDir) -> None:
    with open_curves(None, run, 0, recipe={}, terminal=Terminal()) as curves:
        curves.report(1, {"train/loss": 1.0})
    assert list(run.root.iterdir()) == []
