"""Folders and files: one writer at a time, whole or absent, readable as others, well explained."""

import errno
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from small_disk import small_disk

from dalle_cli.errors import DalleError
from dalle_cli.storage.atomic import (
    append_to_file,
    atomic_folder,
    copy_file,
    exclusive_lock,
    make_folder,
    seal,
    write_file,
)
from dalle_cli.storage.integrity.disk_space import explain_disk_failure
from dalle_cli.storage.integrity.tensor_files import write_tensors


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


def test_worker_that_outlives_its_process_does_not_hold_the_folder(tmp_path: Path) -> None:
    """As data workers do for seconds after a `kill -9`, while the same command is typed again."""
    forked = multiprocessing.get_context("fork")
    has_begun, may_end = forked.Event(), forked.Event()

    def work() -> None:
        has_begun.set()
        may_end.wait(60)

    worker = forked.Process(target=work)
    with exclusive_lock(tmp_path):
        worker.start()
        assert has_begun.wait(60)
        with pytest.raises(DalleError, match="another command"), exclusive_lock(tmp_path):
            pass
    try:
        with exclusive_lock(tmp_path):
            assert worker.is_alive()
    finally:
        may_end.set()
        worker.join()


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


def test_output_folder_that_is_a_link_to_nothing_is_told_as_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for folder in (tmp_path / "link", tmp_path / "link" / "run"):
        with pytest.raises(DalleError, match=r"cannot make the folder .*link is a link to nothing"):
            make_folder(folder)
        with (
            pytest.raises(DalleError, match="link is a link to nothing"),
            atomic_folder(folder / "x"),
        ):
            pass


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_tensors_are_written_with_the_permissions_of_any_file(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        (tmp_path / "plain").touch()
        for _ in range(2):  # a second time over the first
            write_tensors(tmp_path / "tensors", {"w": torch.ones(2)})
    finally:
        os.umask(before)
    assert (tmp_path / "tensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert load_file(tmp_path / "tensors")["w"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (SafetensorError("I/O error: No space left on device (os error 28)"), True),
        (OSError(errno.ENOTDIR, "Not a directory"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (SafetensorError("I/O error: Permission denied (os error 13)"), False),
    ],
)
def test_space_is_told_of_where_it_is_short_alone(
    error: Exception, is_full: bool, tmp_path: Path
) -> None:
    with (
        pytest.raises(DalleError, match=r"cannot write .*it: ") as caught,
        explain_disk_failure(tmp_path / "it", 2**20, hint="earlier saves are untouched"),
    ):
        raise error
    assert ("it needs 1 MiB, and " in caught.value.hint) == is_full
    assert caught.value.hint.endswith("earlier saves are untouched")


def test_full_disk_names_the_copy_and_not_its_source(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(10_000))
    (tmp_path / "small").mkdir()
    copy = tmp_path / "small" / "copy"
    with small_disk(tmp_path / "small", 9_000), pytest.raises(DalleError) as caught:
        copy_file(tmp_path / "source", copy)
    assert caught.value.message == f"cannot write {copy}: No space left on device"
    assert caught.value.hint == "it needs 12 KiB, and 8.79 KiB are free"
    assert not list((tmp_path / "small").iterdir())


def test_line_is_appended_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "small" / "lines"
    path.parent.mkdir()
    with small_disk(path.parent, 10):
        append_to_file(path, "first\n")
        with pytest.raises(DalleError, match=r"cannot write .*lines: No space left"):
            append_to_file(path, "second\n")
    append_to_file(path, "third\n")
    assert path.read_text() == "first\nthird\n"


def test_full_disk_is_told_of_the_folder_that_was_to_appear(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    folder = tmp_path / "small" / "out"
    with (
        small_disk(tmp_path / "small", 6_000),
        pytest.raises(DalleError) as caught,
        atomic_folder(folder) as staging,
    ):
        write_file(staging / "a", bytes(4096))
        write_file(staging / "b", bytes(4096))
    assert caught.value.message == f"cannot write {folder / 'b'}: No space left on device"
    assert caught.value.hint == f"{folder} needs at least 8 KiB, and 5.86 KiB are free"
    assert not list((tmp_path / "small").iterdir())


def test_sealed_file_reaches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
    sealed = tmp_path / "sealed"
    sealed.write_bytes(b"weights")
    assert seal(sealed)["bytes"] == len(b"weights")
    assert synced == [sealed.stat().st_ino]
