"""Systems other than Linux: nothing that only POSIX has is needed to import the package."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_architecture import MODULES

from dalle_cli.errors import DalleError
from dalle_cli.storage import atomic
from dalle_cli.storage.atomic import exclusive_lock
from dalle_cli.training import throughput
from dalle_cli.training.throughput import Throughput

POSIX_ONLY = ("fcntl", "resource", "termios", "pwd", "grp", "pty", "tty")
OPTIONAL = ("deepspeed",)  # libraries of others, which may need what is blocked
IMPORT_ALL = """
import importlib, sys
import torch, torch.utils.data, torch.distributed
for name in {blocked}: sys.modules[name] = None
for name in {modules}: importlib.import_module(name)
"""


@pytest.mark.thorough
def test_every_module_can_be_imported_without_what_only_posix_has() -> None:
    modules = [
        f"dalle_cli.{module}"
        for module in MODULES
        if module not in ("", "__main__") and module.rpartition(".")[2] not in OPTIONAL
    ]
    script = IMPORT_ALL.format(blocked=POSIX_ONLY, modules=modules)
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_folder_is_held_by_one_at_a_time_without_locks_on_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "fcntl", None)
    folder = tmp_path / "run"
    folder.mkdir()
    with exclusive_lock(folder):
        with pytest.raises(DalleError, match="another command"), exclusive_lock(folder):
            pass
        assert not list(folder.iterdir())
    with exclusive_lock(folder):
        pass


def test_peak_of_memory_is_left_out_where_the_system_does_not_count_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(throughput, "resource", None)
    figures = Throughput(8, torch.device("cpu")).figures(1.0)
    assert figures == {"train/images_per_second": 8.0}
