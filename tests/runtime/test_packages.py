"""Packages that are installed, and what only looks like one."""

from pathlib import Path

import pytest

from dalle_cli.runtime.packages import is_installed


def test_what_can_be_imported_is_installed() -> None:
    assert is_installed("json") and is_installed("numpy")
    assert not is_installed("no_such_package")


def test_a_folder_without_modules_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "left_behind" / "events").mkdir(parents=True)
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not is_installed("left_behind") and is_installed("whole")
