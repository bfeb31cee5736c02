"""Time over the starts of a job."""

import time
from pathlib import Path

import pytest

from dalle_cli.storage.stopwatch import stopwatch


def test_seconds_add_up_over_starts_that_were_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [5.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    for expected in (10.0, 20.0):
        with pytest.raises(KeyboardInterrupt), stopwatch(tmp_path / "seconds.json") as seconds:
            clock[0] += 10
            assert seconds() == expected
            raise KeyboardInterrupt
        clock[0] += 1000
    with stopwatch(tmp_path / "seconds.json") as seconds:
        assert seconds() == 20.0


@pytest.mark.parametrize("damage", ["", "[]", "null", '{"seconds": "x"}', "{}"])
def test_damaged_file_counts_from_nothing(damage: str, tmp_path: Path) -> None:
    (tmp_path / "seconds.json").write_text(damage)
    with stopwatch(tmp_path / "seconds.json") as seconds:
        assert seconds() < 60
