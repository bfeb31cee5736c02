"""`dalle data overlap`: what it writes, and that its list excludes what it found."""

import csv
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageOps

COPIED = ["004", "011"]  # of the pairs, that are in the test set as well
MIRRORED = "017"
THRESHOLD = 1e-5  # the CLIP is so young that all pictures are near one another


@pytest.fixture
def held_back(pairs: Path, make_pairs: Callable, tmp_path: Path) -> Path:
    """Other scenes, and copies of three training pictures under names of their own."""
    everything = make_pairs(tmp_path / "scenes", 40)
    folder = tmp_path / "test"
    (folder / "more").mkdir(parents=True)
    for number in range(30, 36):
        shutil.copy(everything / f"{number:03d}.png", folder)
    for key in COPIED:
        with Image.open(pairs / f"{key}.png") as picture:
            picture.save(folder / "more" / f"copy of {key}.webp", lossless=True)
    with Image.open(pairs / f"{MIRRORED}.png") as picture:
        ImageOps.mirror(picture).save(folder / "mirrored.png")
    return folder


@pytest.fixture
def compare(pairs: Path, clip_run: Path, tmp_path: Path, dalle: Callable) -> Callable:
    def overlap(test: Path, *words: object, name: str = "out", training: Path = pairs):
        own = ["--clip", clip_run, "--device", "cpu", "--precision", "fp32"]
        named = [training, test, "--out", tmp_path / name]
        return dalle("data", "overlap", *named, *own, "--threshold", THRESHOLD, *words)

    return overlap


def rows_of(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((out / "pairs.csv").read_text(), newline="")))


def test_copies_are_found_by_a_clip_and_written_about(
    pairs: Path, held_back: Path, tmp_path: Path, compare: Callable
) -> None:
    ended = compare(held_back)
    out = tmp_path / "out"
    assert (ended.code, ended.out) == (0, f"{out}\n"), ended.err
    assert (out / "exclude-train.txt").read_text() == "004\n011\n017\n"
    test_keys = (out / "exclude-test.txt").read_text().split("\n")
    assert test_keys == ["mirrored", "more/copy of 004", "more/copy of 011", ""]
    assert "3 of 9 test pictures are among the training pictures" in ended.err
    assert f"next: dalle train {pairs} --exclude {out}/exclude-train.txt --run DIR" in ended.err

    rows = rows_of(out)
    assert [row["copy"] for row in rows] == ["yes"] * 3 + ["no"] * 6
    distances = [float(row["distance"]) for row in rows]
    assert distances == sorted(distances)
    found = {row["test"]: row["train"] for row in rows[:3]}
    assert found == {"more/copy of 004": "004", "more/copy of 011": "011", "mirrored": "017"}
    assert {row["test"] for row in rows} >= {f"{number:03d}" for number in range(30, 36)}

    facts = json.loads((out / "overlap.json").read_text())
    assert facts["method"].startswith("CLIP ") and facts["threshold"] == THRESHOLD
    assert (facts["train"]["samples"], facts["train"]["copies"]) == (23, 3)
    assert (facts["test"]["samples"], facts["test"]["copies"]) == (9, 3)
    with Image.open(out / "pairs.png") as sheet:
        assert sheet.width > 2 * 128 and sheet.height > 9 * 128


def test_list_excludes_what_was_found(
    pairs: Path, held_back: Path, tmp_path: Path, compare: Callable, dalle: Callable
) -> None:
    assert compare(held_back).code == 0
    for data, name, n_left in ((pairs, "train", 20), (held_back, "test", 6)):
        words = ["--exclude", tmp_path / "out" / f"exclude-{name}.txt", "--json"]
        checked = json.loads(dalle("data", "check", data, *words).out)
        assert checked["samples"] == n_left and checked["bad"] == []


def test_every_copy_in_the_training_set_is_listed(
    pairs: Path, held_back: Path, tmp_path: Path, compare: Callable
) -> None:
    """Not only the one that is nearest to a test picture."""
    training = shutil.copytree(pairs, tmp_path / "training")
    shutil.copy(pairs / "004.png", training / "again.png")
    assert compare(held_back, training=training).code == 0
    listed = (tmp_path / "out" / "exclude-train.txt").read_text().split()
    assert listed == ["004", "011", "017", "again"]


def test_nothing_in_common_leaves_empty_lists(
    pairs: Path, held_back: Path, tmp_path: Path, compare: Callable, dalle: Callable
) -> None:
    for name in ("more", "mirrored.png"):
        path = held_back / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    ended = compare(held_back)
    assert ended.code == 0 and "next:" not in ended.err
    assert (tmp_path / "out" / "exclude-train.txt").read_text() == ""
    checked = dalle("data", "check", pairs, "--exclude", tmp_path / "out" / "exclude-train.txt")
    assert checked.code == 0 and "0 samples excluded" in checked.out


def test_unreadable_pictures_are_told_and_left_out(
    held_back: Path, tmp_path: Path, compare: Callable
) -> None:
    (held_back / "030.png").write_bytes(b"broken")
    ended = compare(held_back, "--json")
    assert ended.code == 0 and "skipped 030: " in ended.err
    assert [bad["where"] for bad in json.loads(ended.out)["bad"]] == ["030"]
    assert "030" not in {row["test"] for row in rows_of(tmp_path / "out")}

    for path in held_back.rglob("*.*"):
        path.write_bytes(b"broken")
    ended = compare(held_back, name="other")
    assert ended.code == 1 and "not one usable picture in" in ended.err
    assert not (tmp_path / "other").exists()


def test_folder_that_is_there_is_refused_before_anything_is_read(
    held_back: Path, tmp_path: Path, compare: Callable
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    ended = compare(held_back)
    assert ended.code == 2 and "already holds something" in ended.err and "data:" not in ended.err


def test_copies_are_found_by_hashes_without_a_clip(
    pairs: Path, held_back: Path, tmp_path: Path, dalle: Callable
) -> None:
    pytest.importorskip("imagehash", reason="its library is an extra")
    words = ["--out", tmp_path / "out", "--threshold", 6]
    ended = dalle("data", "overlap", pairs, held_back, *words)
    assert ended.code == 0, ended.err
    listed = (tmp_path / "out" / "exclude-train.txt").read_text().split()
    assert set(listed) >= {*COPIED, MIRRORED}
    facts = json.loads((tmp_path / "out" / "overlap.json").read_text())
    assert facts["method"].startswith("imagehash ") and facts["unit"] == "of 144 bits"


def test_without_the_library_a_clip_is_asked_for(
    pairs: Path,
    held_back: Path,
    tmp_path: Path,
    dalle: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "imagehash", None)
    ended = dalle("data", "overlap", pairs, held_back, "--out", tmp_path / "out")
    assert ended.code == 1 and "`pip install imagehash`" in ended.err
    assert not (tmp_path / "out").exists()
