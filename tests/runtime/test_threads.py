"""Threads give way to other programs, unless their number is fixed."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dalle_cli.runtime.threads import CoreTimes, core_times, threads_that_fit

N_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
BURNER = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"
PROGRAM = f"""
import subprocess, sys
import torch
from dalle_cli.runtime.devices import open_device

torch.set_num_threads(2)
burners = [subprocess.Popen([sys.executable, "-S", "-c", {BURNER!r}]) for _ in range({2 * N_CORES})]
open_device("cpu", "fp32", say=print)
print(torch.get_num_threads())
for burner in burners:
    burner.kill()
"""


@pytest.mark.parametrize(
    ("own", "others", "n_threads"),
    [(8, 0.1, 4), (20, 0.5, 4), (15, 5, 3), (10, 10, 2), (5, 15, 1), (0, 20, 1), (0, 40, 1)],
)
def test_threads_are_as_many_as_others_leave_cores_for(
    own: float, others: float, n_threads: int
) -> None:
    """In five seconds on four cores; what others use of a core now and then is overlooked."""
    before = CoreTimes(clock=100, own=7, all=1000)
    now = CoreTimes(clock=105, own=7 + own, all=1000 + own + others)
    assert threads_that_fit(before, now, n_cores=4, most=4) == n_threads
    assert threads_that_fit(before, now, n_cores=4, most=2) == min(n_threads, 2)


needs_cores = pytest.mark.skipif(
    core_times() is None or N_CORES < 2, reason="one core, or a system that does not report load"
)


@pytest.mark.thorough
@needs_cores
def test_busy_cores_leave_one_thread_and_a_note() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    note, n_threads = run_program(environment)
    assert n_threads == "1" and "1 of 2 threads" in note and "`--threads 2`" in note


@pytest.mark.thorough
@needs_cores
def test_a_fixed_number_of_threads_stays_on_busy_cores() -> None:
    assert run_program(os.environ | {"OMP_NUM_THREADS": "2"}) == ["2"]


def run_program(environment: dict[str, str]) -> list[str]:
    """Return the lines that the program prints, whose cores others use."""
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_the_option_fixes_the_number_for_this_process_and_those_it_starts(
    dalle: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    missing = tmp_path / "missing"
    dalle("reconstruct", missing, missing, "--out", tmp_path / "out", "--threads", "3")
    assert os.environ["OMP_NUM_THREADS"] == "3"
    dalle("reconstruct", missing, missing, "--out", tmp_path / "out", "--threads", "auto")
    assert os.environ["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize("number", ["0", "-1", "two", "1.5"])
def test_a_number_of_threads_that_is_none_is_refused(
    dalle: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ended = dalle("reconstruct", "dvae", "a.png", "--out", tmp_path / "out", f"--threads={number}")
    assert ended.code == 2 and f"must be auto or a number from 1 on: {number}" in ended.err
    assert os.environ["OMP_NUM_THREADS"] == "1"
