"""Locks: a folder has one writer at a time."""

from pathlib import Path

import pytest

from dalle_cli.errors import DalleError
from dalle_cli.storage.atomic import atomic_folder, exclusive_lock, make_folder


def test_folder_is_held_by_one_at_a_time_and_left_as_it_was(tmp_path: Path) -> None:
    with exclusive_lock(tmp_path):
        with (
            pytest.raises(DalleError, match="another command is writing to"),
            exclusive_lock(tmp_path),
        ):
            pass
        with pytest.raises(DalleError, match="another command"), exclusive_lock(tmp_path):
            pass
    with exclusive_lock(tmp_path):
        assert not list(tmp_path.iterdir())


def test_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "new") as staging:
        (staging / "a").write_text("whole")
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "new" / "a").read_text() == "whole"

    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "other") as staging:
        (staging / "a").touch()
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_folder_that_cannot_be_made_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DalleError, match=r"cannot make the folder .*file/run: Not a directory"):
        make_folder(tmp_path / "file" / "run")
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
