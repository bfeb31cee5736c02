"""Processes started together: whose failure is told, and that none outlives the others."""

import os
import time
from pathlib import Path

import pytest

from dalle_cli.errors import DalleError
from dalle_cli.runtime.processes import launcher
from dalle_cli.runtime.processes.ranks import LOST_ANOTHER


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a script in place of `dalle`, with the word of each rank as what it does."""
    (tmp_path / "dalle_cli").mkdir()
    (tmp_path / "dalle_cli" / "__init__.py").touch()
    (tmp_path / "dalle_cli" / "__main__.py").write_text(
        "import os, sys, time, pathlib\n"
        "does = sys.argv[1 + int(os.environ['RANK'])]\n"
        f"pathlib.Path(r'{tmp_path}', 'pid' + os.environ['RANK']).write_text(str(os.getpid()))\n"
        "if does == 'die': os.kill(os.getpid(), 9)\n"
        "if does == 'sleep': time.sleep(60)\n"
        "if does == 'threads': print(os.environ['OMP_NUM_THREADS'])\n"
        "if does == 'environment': print(os.environ['WORLD_SIZE'], os.environ['MASTER_ADDR'])\n"
        "sys.exit(int(does) if does.isdecimal() else 0)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launcher, "GRACE", 0.5)
    return lambda *words: launcher.launch(len(words), list(words))


def test_processes_that_end_well_are_no_failure(launch, tmp_path: Path) -> None:
    launch("0", "0", "0")
    assert {file.name for file in tmp_path.glob("pid*")} == {"pid0", "pid1", "pid2"}


def test_each_process_is_told_its_world(launch, capfd: pytest.CaptureFixture) -> None:
    launch("environment", "environment")
    assert capfd.readouterr().out == "2 127.0.0.1\n" * 2


def test_processes_share_the_cores_unless_the_user_has_set_their_threads(
    launch, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    launch("threads", "threads")
    assert capfd.readouterr().out == "3\n3\n"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    launch("threads", "threads")
    assert capfd.readouterr().out == "5\n5\n"


@pytest.mark.parametrize(
    ("words", "told", "code"),
    [
        (("0", "4"), "process 1 of 2 ended with exit code 4", 4),
        (("die", "sleep"), "process 0 of 2 was ended by SIGKILL", 137),
        ((str(LOST_ANOTHER), str(LOST_ANOTHER), "3"), "process 2 of 3 ended with exit code 3", 3),
    ],
)
def test_failure_is_told_of_the_one_that_failed(
    words: tuple[str, ...], told: str, code: int, launch
) -> None:
    with pytest.raises(DalleError, match=told) as caught:
        launch(*words)
    assert caught.value.exit_code == code


@pytest.mark.parametrize("code", launcher.SELF_EXPLAINED)
def test_what_the_first_process_has_told_is_not_told_again(code: int, launch) -> None:
    with pytest.raises(SystemExit) as ended:
        launch(str(code), str(code))
    assert ended.value.code == code


def test_failure_that_the_first_process_has_told_is_not_told_again(launch) -> None:
    with pytest.raises(SystemExit) as ended:
        launch("1", str(LOST_ANOTHER))
    assert ended.value.code == 1


def test_no_process_outlives_a_failure(launch, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(DalleError):
        launch("sleep", "1", "sleep")
    assert time.monotonic() - started < 30
    for file in tmp_path.glob("pid*"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.read_text()), 0)
