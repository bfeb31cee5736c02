"""Requests to stop: a checkpoint at a step's end, the signal's exit code, a run that goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dalle_cli.runtime.signals import STOP_SIGNALS
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training.checkpoint import checkpoints, incomplete_checkpoints, load_checkpoint
from dalle_cli.training.stop_signals import SAME_REQUEST, StopSignals

PATIENCE = 120  # seconds until a process that does not do as it should is given up


BEGIN = """
import os, signal, time
from dalle_cli.training.stop_signals import StopSignals
"""


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BEGIN + script],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_request_is_remembered_and_the_handlers_before_come_back(number: int) -> None:
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert stop.requested is None
        signal.raise_signal(number)
        assert stop.requested == number
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_second_request_ends_at_once(number: int) -> None:
    ended = run_script(
        f"with StopSignals():\n"
        f"    os.kill(os.getpid(), {int(number)})\n    time.sleep({2 * SAME_REQUEST})\n"
        f"    os.kill(os.getpid(), {int(number)})\n    time.sleep({PATIENCE})\n"
    )
    assert ended.returncode == 128 + number


def test_signal_that_arrives_by_two_ways_is_one_request() -> None:
    """A parent forwards what the whole process group gets."""
    ended = run_script(
        "with StopSignals() as stop:\n"
        "    for _ in range(3): os.kill(os.getpid(), signal.SIGTERM)\n"
        f"    time.sleep({SAME_REQUEST})\n"
        "    print(stop.requested)\n"
    )
    assert (ended.returncode, ended.stdout) == (0, f"{int(signal.SIGTERM)}\n")
    assert ended.stderr.count("finishing this step") == 1


def test_answer_tells_how_long_the_step_will_take() -> None:
    ended = run_script(
        "clock = [0.0]\n"
        "time.monotonic = lambda: clock[0]\n"
        "with StopSignals() as stop:\n"
        "    stop.step_begins(); clock[0] += 50; stop.step_ends()\n"
        "    stop.step_begins(); clock[0] += 10\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(0.5)\n"
    )
    assert ended.stderr == (
        "finishing this step (about 40 s), then saving; press Ctrl-C again to stop at once\n"
    )


def test_answer_does_not_wait_until_python_code_runs_again() -> None:
    """Nor does the end that a second request asks for."""
    ended = run_script(
        "import hashlib, threading\n"
        "def request_twice():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        f"    time.sleep({2 * SAME_REQUEST})\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "with StopSignals():\n"
        "    threading.Timer(0.2, request_twice).start()\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)\n"
    )
    assert ended.returncode == 130 and "finishing this step" in ended.stderr


def test_nohup_stays_in_force() -> None:
    ended = run_script(
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with StopSignals() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    print(stop.requested)\n"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "None\n", "")


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
        pytest.param(signal.SIGUSR1, os.kill, id="notice of a job scheduler"),
        pytest.param(
            signal.SIGHUP, os.killpg, id="terminal that is closed", marks=pytest.mark.slow
        ),
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
