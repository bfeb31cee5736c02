"""Runs under `--log`: trackers have what the run's own files have."""

import json
import math
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import run as run_process
from processes import words_of
from sent import lines_of, sent

from dalle_cli.storage.run_dir import RunDir


@pytest.fixture
def train(pairs: Path, dalle: Callable, settings: Callable) -> Callable:
    def train_dvae(run: RunDir, *words: object, **changes: object):
        shared = ["--data", pairs, "--run", run.root, *settings(**changes)]
        return dalle("train-dvae", "dvae/tiny", *shared, *words)

    return train_dvae


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "dvae")


def figures_of(run: RunDir) -> dict[tuple[int, str], float]:
    """Return the figures in the run's own file by step and name."""
    reports = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return {
        (report["step"], name): value
        for report in reports
        for name, value in report.items()
        if name != "step" and value is not None
    }


def lose_checkpoints(run: RunDir, after: int) -> None:
    for path in run.checkpoints.iterdir():
        if int(path.name.removeprefix("step-")) > after:
            shutil.rmtree(path)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_tracker_has_every_figure_and_preview(
    name: str, run: RunDir, train: Callable, stand_ins: Path
) -> None:
    ended = train(run, "--log", name)
    assert (ended.code, ended.out) == (0, f"{run.root}\n"), ended.err
    found = sent(stand_ins)
    previews = {step: size for (step, figure), size in found.items() if figure == "preview"}
    assert set(previews) == {5, 10, 11} and all(side > 0 for side in previews[5])
    assert {key: value for key, value in found.items() if key[1] != "preview"} == figures_of(run)


@pytest.mark.thorough
def test_resumed_run_goes_on_with_its_curves(
    run: RunDir, train: Callable, stand_ins: Path, dalle: Callable
) -> None:
    """It was killed at step 11, and is resumed from the checkpoint of step 6."""
    assert train(run, "--log", "wandb").code == 0
    lose_checkpoints(run, 6)
    ended = dalle("resume", run.root)
    assert ended.code == 0 and "--log wandb --run" in ended.err
    expected = figures_of(run)
    found = {key: value for key, value in sent(stand_ins).items() if key[1] != "preview"}
    assert found.keys() == expected.keys()
    timed = ("_per_second", "mfu", "peak_memory_gib", "train/seconds")
    for key, value in expected.items():
        assert key[1].endswith(timed) or math.isclose(found[key], value, rel_tol=1e-6), key


@pytest.mark.thorough
def test_run_that_is_stopped_without_a_loss_repeats_nothing(
    run: RunDir, train: Callable, stand_ins: Path, dalle: Callable, fixed_schedules: Callable
) -> None:
    short = fixed_schedules("dvae", 4)
    assert train(run, "--log", "wandb", *short, training__steps=5).code == 0
    assert train(run, "--log", "wandb", *short, training__steps=9).code == 0
    found = {key: value for key, value in sent(stand_ins).items() if key[1] != "preview"}
    assert found == figures_of(run)
    assert sum("finished" in line for line in lines_of(stand_ins)) == 2


def test_missing_package_is_one_message_before_anything_is_written(
    run: RunDir, train: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dalle_cli.training.trackers.choice.is_installed", lambda name: False)
    for words in ([], ["--dry-run"]):
        ended = train(run, "--log", "trackio", *words)
        assert ended.code == 1 and not run.root.exists()
        assert ended.err.splitlines() == [
            "error: `--log trackio` needs the package trackio",
            "hint: `pip install trackio`, or leave it out",
        ]


def test_unknown_tracker_is_wrong_usage(run: RunDir, train: Callable) -> None:
    ended = train(run, "--log", "excel")
    assert ended.code == 2 and "must be one of tensorboard, wandb, trackio: excel" in ended.err


@pytest.mark.thorough
def test_nothing_is_imported_of_a_tracker_that_is_not_asked_for(
    run: RunDir, train: Callable, stand_ins: Path
) -> None:
    assert train(run, "--log", "wandb", "--dry-run").code == 0
    assert train(run).code == 0
    assert not {"wandb", "trackio"} & set(sys.modules) and not stand_ins.exists()
    assert not run.logged.exists()


@pytest.mark.thorough
def test_chain_logs_what_it_trains(
    pairs: Path, tmp_path: Path, dalle: Callable, stand_ins: Path
) -> None:
    words = ["train", pairs, "--run", tmp_path / "run", "--like", "tiny", "--log", "wandb"]
    ended = dalle(*words, "--plan")
    assert ended.code == 0, ended.err
    commands = [line for line in ended.out.splitlines() if line.startswith("$ dalle ")]
    training = [line for line in commands if line.startswith("$ dalle train-")]
    assert training == [line for line in commands if "--log wandb" in line] != []


@pytest.mark.distributed
def test_one_of_several_processes_logs(run: RunDir, pairs: Path, stand_ins: Path) -> None:
    words = ["--data", pairs, "--run", run.root, "--log", "wandb", "--gpus", 2, "--device", "cpu"]
    ended = run_process("train-dvae", "dvae/tiny", *words, *words_of({}))
    assert ended.returncode == 0, ended.stderr
    found = {key: value for key, value in sent(stand_ins).items() if key[1] != "preview"}
    assert found == figures_of(run)


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")  # of the package, when it is imported
def test_event_files_are_read_back_with_the_runs_own_figures(
    run: RunDir, train: Callable, dalle: Callable
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("tensorboard", reason="its package is an extra")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert train(run, "--log", "tensorboard").code == 0
    lose_checkpoints(run, 6)
    resumed = dalle("resume", run.root)
    assert resumed.code == 0, resumed.err

    events = EventAccumulator(str(run.root / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    found = {
        (event.step, name): event.value
        for name in events.Tags()["scalars"]
        for event in events.Scalars(name)
    }
    n_found = sum(len(events.Scalars(name)) for name in events.Tags()["scalars"])
    expected = figures_of(run)
    assert n_found == len(expected) and found.keys() == expected.keys()
    for key, value in expected.items():
        assert math.isclose(found[key], value, rel_tol=1e-5, abs_tol=1e-6), key
    assert [event.step for event in events.Images("preview")] == [5, 10, 11]
