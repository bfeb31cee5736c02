"""Stand-ins for trackers, on the path of modules."""

import sys
from pathlib import Path

import pytest
from sent import STAND_INS


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that takes down what the stand-ins are sent, in other processes, too."""
    monkeypatch.syspath_prepend(str(STAND_INS))
    monkeypatch.setenv("PYTHONPATH", str(STAND_INS), prepend=":")
    monkeypatch.setenv("STAND_IN_FILE", str(tmp_path / "sent.jsonl"))
    for name in ("wandb", "trackio"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path / "sent.jsonl"
    for name in ("wandb", "trackio"):
        sys.modules.pop(name, None)
