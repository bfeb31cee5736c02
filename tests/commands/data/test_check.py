"""`dalle data check`: what a source was taken for, what is not read, and what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def mixed_folder(make_pairs: Callable, tmp_path: Path) -> Path:
    folder = make_pairs(tmp_path / "birds", 3)
    for name in ("a.tiff", "b.tiff", "c.mp4"):
        (folder / name).touch()
    return folder


def test_form_comes_first_and_what_is_not_read_is_counted(
    mixed_folder: Path, dalle: Callable
) -> None:
    lines = dalle("data", "check", mixed_folder).out.splitlines()
    assert lines[0] == "form            folder of pictures with .txt captions"
    assert "not read        2 .tiff, 1 .mp4" in lines and "bad             2" in lines

    facts = json.loads(dalle("data", "check", mixed_folder, "--json").out)
    assert facts["form"] == "folder of pictures with .txt captions"
    assert facts["not_read"] == {".tiff": 2, ".mp4": 1}


def test_nothing_is_said_of_unread_files_where_all_are_read(pairs: Path, dalle: Callable) -> None:
    assert "not read" not in dalle("data", "check", pairs).out


def test_columns_can_be_chosen(mixed_folder: Path, dalle: Callable) -> None:
    (mixed_folder / "rows.csv").write_text("pic,text,words\n000.png,one,a longer caption\n")
    table = mixed_folder / "rows.csv"
    refused = dalle("data", "check", table)
    assert refused.code == 1 and "columns found: pic, text, words" in refused.err
    columns = ["--image-column", "pic", "--caption-column", "words"]
    facts = json.loads(dalle("data", "check", table, *columns, "--json").out)
    assert (facts["samples"], facts["longest_caption"]) == (1, len("a longer caption"))
