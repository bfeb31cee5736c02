"""Ctrl-C and SIGTERM: a checkpoint at a step's end, the signal's exit code, a run that goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training.checkpoint import checkpoints, incomplete_checkpoints, load_checkpoint
from dalle_cli.training.stop_signals import StopSignals

PATIENCE = 120  # seconds until a process that does not do as it should is given up


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_request_is_remembered_and_the_handlers_before_come_back(number: int) -> None:
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert stop.requested is None
        signal.raise_signal(number)
        assert stop.requested == number
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_second_request_ends_at_once(number: int) -> None:
    script = (
        "import signal\nfrom dalle_cli.training.stop_signals import StopSignals\n"
        f"with StopSignals():\n"
        f"    signal.raise_signal({int(number)})\n    signal.raise_signal({int(number)})\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 128 + number


def wait_for_figures(run: RunDir, process: subprocess.Popen[str]) -> None:
    """Wait until a few updates are done."""
    deadline = time.monotonic() + PATIENCE
    while not run.metrics.exists() or run.metrics.read_text().count("\n") < 3:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "send"),
    [
        pytest.param(signal.SIGTERM, os.kill, id="kill"),
        pytest.param(signal.SIGINT, os.killpg, id="Ctrl-C in a terminal"),
        pytest.param(
            signal.SIGTERM, os.killpg, id="timeout or a job scheduler", marks=pytest.mark.slow
        ),
        pytest.param(signal.SIGINT, os.kill, id="kill -INT", marks=pytest.mark.slow),
    ],
)
def test_stopped_training_saves_once_and_goes_on(
    number: signal.Signals,
    send: Callable[[int, int], None],
    tmp_path: Path,
    pairs: Path,
    dalle: Callable,
    settings: Callable,
    fixed_schedules: Callable,
) -> None:
    run = RunDir(tmp_path / "run")
    words = ["train-dvae", "dvae/tiny", "--data", pairs, "--run", run.root]
    words += fixed_schedules("dvae", 1)
    rare = {
        "runtime__save_every": 10**6,
        "runtime__validate_every": 10**6,
        "runtime__preview_every": 10**6,
    }
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "dalle_cli",
            *map(str, words),
            *settings(training__steps=10**6, **rare),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for_figures(run, process)
        send(process.pid, number)
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 128 + number, err
    assert "Traceback" not in err and out == ""
    [(step, path)] = checkpoints(run)
    assert incomplete_checkpoints(run) == []
    assert f"stopped by {number.name} after step {step}; saved" in err
    assert f"hint: `dalle resume {run.root}` resumes the run" in err
    assert load_checkpoint(path).numbers["step"] == step
    assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == list(
        range(1, step + 1)
    )

    resumed = dalle(*words, *settings(training__steps=step + 2, **rare))
    assert resumed.code == 0 and f"resumed after step {step}" in resumed.err
    trained = [
        line
        for line in map(json.loads, run.metrics.read_text().splitlines())
        if "train/loss" in line
    ]
    assert [line["step"] for line in trained] == list(range(1, step + 3))
