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
    checked = dalle("data", "check", mixed_folder)
    lines = checked.out.splitlines()
    assert lines[0] == "form            folder of pictures with .txt captions"
    assert "not read        2 .tiff, 1 .mp4" in lines
    assert "bad             2, 40.0% of all samples" in lines and checked.code == 1

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


def test_status_and_count_say_what_training_would_do(
    make_pairs: Callable, tmp_path: Path, dalle: Callable
) -> None:
    """Neither lone captions nor duplicates are bad samples."""
    folder = make_pairs(tmp_path / "birds", 11)
    for name in ("notes", "more notes"):
        (folder / f"{name}.txt").write_text("no picture")
    good = dalle("data", "check", folder)
    assert good.code == 0 and "bad             0, 0.0% of all samples" in good.out
    assert "more notes.txt: caption without picture" in good.out

    for number in range(3):
        (folder / f"{number:03d}.png").write_bytes(b"broken")
    checked = dalle("data", "check", folder)
    assert checked.code == 1 and "8 usable" in checked.out
    assert "training would stop: 27.3% of the samples are bad" in checked.err
    assert "--set data.max_bad_share=0.31" in checked.err
    facts = json.loads(dalle("data", "check", folder, "--json").out)
    assert (facts["samples"], facts["bad_samples"], facts["bad_share"]) == (8, 3, 0.2727)

    words = ["train-dvae", "dvae/tiny", "--data", folder, "--run", tmp_path / "run"]
    short = ["--set", "training.steps=3", "--set", "runtime.workers=0"]
    assert dalle(*words, *short).code == 1
    assert dalle(*words, *short, "--set", "data.max_bad_share=0.31").code == 0


def test_unusable_captions_are_counted_by_their_cause(
    make_pairs: Callable, tmp_path: Path, dalle: Callable
) -> None:
    folder = make_pairs(tmp_path / "birds", 8)
    (folder / "000.txt").unlink()
    (folder / "001.txt").write_text(" \n")
    for number in (2, 3):
        (folder / f"{number:03d}.txt").write_bytes("红色的圆".encode("gbk"))
    (folder / "004.txt").write_text("红色的圆", "utf-16")
    checked = dalle("data", "check", folder)
    causes = "2 x caption is not UTF-8, 1 x picture without caption, 1 x empty caption"
    assert f"no caption      4: {causes}" in checked.out.splitlines()
    assert checked.code == 1
    assert "training on captions would stop: 42.9% of the samples are bad" in checked.err
    assert "iconv -f GBK -t UTF-8" in checked.err

    facts = json.loads(dalle("data", "check", folder, "--json").out)
    assert facts["caption_faults"]["caption is not UTF-8"] == 2 and facts["bad_samples"] == 0
