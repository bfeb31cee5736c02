"""Files that are read whole: of a bounded size, and never one without an end."""

import io
import os
import threading
from pathlib import Path

import pytest

from dalle_cli.storage import small_files
from dalle_cli.storage.small_files import (
    check_readable,
    load_json,
    read_file,
    read_input,
    read_stream,
)


def test_regular_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    for read in (read_file, read_input):
        assert read(tmp_path / "file") == read(tmp_path / "link") == b"content"
    check_readable(tmp_path / "link")


@pytest.mark.parametrize("read", [read_file, load_json, check_readable])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_file_that_may_have_no_end_is_not_opened(
    kind: str, read: object, tmp_path: Path, hang_guard: None
) -> None:
    path = tmp_path / "file"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(OSError, match="not a regular file") as caught:
        read(path)
    assert caught.value.filename == str(path)


def test_folder_and_missing_file_are_told_by_the_system(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "absent")


def test_pipe_that_a_user_names_is_read(tmp_path: Path, hang_guard: None) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[b"content"])
    writer.start()
    assert read_input(tmp_path / "pipe") == b"content"
    writer.join()


def test_input_without_an_end_is_told(monkeypatch: pytest.MonkeyPatch, hang_guard: None) -> None:
    monkeypatch.setattr(small_files, "LARGEST_FILE", 2**20)
    with pytest.raises(OSError, match="larger than 1 MiB"):
        read_input(Path("/dev/zero"))
    assert len(read_stream(io.BytesIO(bytes(2**20)), "stream")) == 2**20
    with pytest.raises(OSError, match="larger than 1 MiB"):
        read_stream(io.BytesIO(bytes(2**20 + 1)), "stream")


@pytest.mark.parametrize("text", [b"[" * 100_000, b"{", b"", b"\xff\xfe", b"1" * 10_000])
def test_what_is_not_json_is_a_value_error(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(text)
    with pytest.raises(ValueError):
        load_json(tmp_path / "file")
