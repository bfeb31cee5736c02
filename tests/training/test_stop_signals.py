"""Requests to stop: a checkpoint at a step's end, the signal's exit code, a run that goes on."""

import json
import os
import pty
import re
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


@pytest.mark.thorough
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


@pytest.mark.thorough
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


@pytest.mark.thorough
def test_long_wait_is_warned_of_and_ended_by_a_request() -> None:
    ended = run_script(
        "from dalle_cli.runtime.signals import StopRequested\n"
        "from dalle_cli.training import stop_signals\n"
        "stop_signals.LONG_WAIT, stop_signals.LOOK_EVERY = 1.0, 0.1\n"
        "import threading\n"
        "with StopSignals() as stop:\n"
        "    threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
        "    try:\n"
        f"        with stop.waiting(): time.sleep({PATIENCE})\n"
        "    except StopRequested as request: print(request.number)\n"
    )
    assert ended.stdout == f"{int(signal.SIGTERM)}\n"
    *warnings, answer = ended.stderr.splitlines()
    told = r"warning: no data for \d s: a disk or a data worker hangs; Ctrl-C saves and stops"
    assert warnings and all(re.fullmatch(told, warning) for warning in warnings)
    assert answer == "saving; press Ctrl-C again to stop at once"


def test_answer_that_cannot_be_printed_is_left_out() -> None:
    ended = run_script(
        "os.close(2)\n"
        "with StopSignals() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        f"    time.sleep({2 * SAME_REQUEST})\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        f"    time.sleep({PATIENCE})\n"
    )
    assert ended.returncode == 143


def wait_for_figures(run: RunDir, process: subprocess.Popen[str]) -> None:
    """Wait until a few updates are done."""
    deadline = time.monotonic() + PATIENCE
    while not run.metrics.exists() or run.metrics.read_text().count("\n") < 3:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


RARE = {
    "runtime__save_every": 10**6,
    "runtime__validate_every": 10**6,
    "runtime__preview_every": 10**6,
}


@pytest.fixture
def words(tmp_path: Path, pairs: Path, fixed_schedules: Callable) -> list[object]:
    """The command of a run, but for its settings."""
    named = ["--data", pairs, "--run", tmp_path / "run"]
    return ["train-dvae", "dvae/tiny", *named, *fixed_schedules("dvae", 1)]


def start(words: list[object], **options: object) -> subprocess.Popen[str]:
    """Start a command in a session of its own; its output is kept unless options say otherwise."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-m", "dalle_cli", *map(str, words)]
    return subprocess.Popen(command, text=True, start_new_session=True, **pipes | options)


@pytest.mark.thorough
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
    words: list[object],
    dalle: Callable,
    settings: Callable,
) -> None:
    run = RunDir(tmp_path / "run")
    process = start([*words, *settings(training__steps=10**6, **RARE)])
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

    resumed = dalle(*words, *settings(training__steps=step + 2, **RARE))
    assert resumed.code == 0 and f"resumed after step {step}" in resumed.err
    trained = [
        line
        for line in map(json.loads, run.metrics.read_text().splitlines())
        if "train/loss" in line
    ]
    assert [line["step"] for line in trained] == list(range(1, step + 3))


def child_of(process: subprocess.Popen[str]) -> int:
    """Find the only child of a process: its data worker."""
    [child] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(child)


@pytest.mark.thorough
@pytest.mark.parametrize("is_stuck", [False, True], ids=["killed", "stuck"])
def test_training_that_loses_its_data_worker_saves_and_ends(
    is_stuck: bool, tmp_path: Path, words: list[object], settings: Callable
) -> None:
    """A worker is killed where memory is short, and is stuck where a disk hangs."""
    run = RunDir(tmp_path / "run")
    few = {"training__steps": 10**6, "runtime__workers": 1}
    process = start([*words, *settings(**few, **RARE)])
    try:
        wait_for_figures(run, process)
        worker = child_of(process)
        os.kill(worker, signal.SIGSTOP if is_stuck else signal.SIGKILL)
        if is_stuck:
            os.kill(process.pid, signal.SIGTERM)
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()

    [(step, path)] = checkpoints(run)
    assert "Traceback" not in err and load_checkpoint(path).numbers["step"] == step
    assert not Path(f"/proc/{worker}").exists()
    if is_stuck:
        assert process.returncode == 143 and f"stopped by SIGTERM after step {step}" in err
        return
    assert process.returncode == 1
    assert f"training ends early; saved after step {step}" in err
    assert "error: a data worker was ended by SIGKILL\n" in err
    assert "`--set runtime.workers=N`" in err.splitlines()[-1]


@pytest.mark.thorough
@pytest.mark.parametrize("place", ["pipe", "terminal", "closed"])
def test_training_goes_on_where_nobody_reads_what_it_prints(
    place: str, tmp_path: Path, words: list[object], settings: Callable
) -> None:
    """As after `2>&1 | head -2`, under `nohup` once the terminal is closed, and with `2>&-`."""
    run = RunDir(tmp_path / "run")
    reader, writer = pty.openpty() if place == "terminal" else os.pipe()
    closes = {"preexec_fn": lambda: os.close(2)} if place == "closed" else {}
    command = [*words, *settings(training__steps=60, **RARE)]
    process = start(command, stderr=writer, stdout=subprocess.DEVNULL, **closes)
    try:
        os.close(writer)
        wait_for_figures(run, process)
        os.close(reader)
        assert process.wait(timeout=PATIENCE) == 0
    finally:
        process.kill()
    assert [step for step, _ in checkpoints(run)] == [60]


@pytest.mark.thorough
def test_request_before_training_begins_ends_in_one_line(
    tmp_path: Path, pairs: Path, dvae_run: Path
) -> None:
    """Even while a file is waited for: here, for captions."""
    captions = tmp_path / "captions.txt"
    os.mkfifo(captions)
    named = ["--data", pairs, "--dvae", dvae_run, "--run", tmp_path / "run"]
    named += ["--preview-captions", captions]
    process = start(["train-transformer", "transformer/tiny", *named])
    try:
        with captions.open("w"):  # opens as soon as the command reads
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (143, "", "stopped by SIGTERM\n")
    assert not (tmp_path / "run").exists()
