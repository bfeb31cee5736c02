"""`dalle data shapes`: the folder is whole or it is not there."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.thorough
def test_interrupted_command_leaves_nothing_and_can_be_repeated(
    tmp_path: Path, dalle: Callable
) -> None:
    words = ["data", "shapes", str(tmp_path / "shapes"), "--pictures", "1000000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dalle_cli", *words],
        stderr=subprocess.PIPE,
        text=True,
        # a test run in the background ignores Ctrl-C, and so would this process
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while process.poll() is None and not list(tmp_path.glob(".shapes.unfinished/train/*.png")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not list(tmp_path.iterdir())

    assert dalle("data", "shapes", tmp_path / "shapes", "--pictures", 4).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_what_a_killed_command_left_is_replaced(tmp_path: Path, dalle: Callable) -> None:
    left = tmp_path / ".shapes.unfinished" / "train"
    left.mkdir(parents=True)
    (left / "old.png").touch()
    assert dalle("data", "shapes", tmp_path / "shapes", "--pictures", 4).code == 0
    assert not left.exists() and not (tmp_path / "shapes" / "train" / "old.png").exists()


def test_an_empty_folder_is_filled_rather_than_replaced(
    tmp_path: Path, dalle: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shapes"
    folder.mkdir()
    monkeypatch.chdir(folder)
    number = folder.stat().st_ino
    assert dalle("data", "shapes", ".", "--pictures", 4).code == 0
    assert folder.stat().st_ino == number and len(list(folder.iterdir())) == 4


def test_what_a_killed_command_left_in_an_empty_folder_is_replaced(
    tmp_path: Path, dalle: Callable
) -> None:
    """It is inside, where it can be renamed even if the folder is a disk of its own."""
    left = tmp_path / ".unfinished" / "train"
    left.mkdir(parents=True)
    assert dalle("data", "shapes", tmp_path, "--pictures", 4).code == 0
    names = {"train", "seen.txt", "unseen.txt", "shapes.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
