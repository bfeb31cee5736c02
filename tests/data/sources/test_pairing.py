"""Pairs never cross folders, one picture of a name is used, and irrelevant files are skipped."""

import re
from pathlib import Path

import pytest
from layouts import keys, pairs, problems, samples, write_files, write_tar

from dalle_cli.data.sources import Sample, Source, open_dataset


def test_pictures_pair_within_their_own_folder_only(tmp_path: Path) -> None:
    files = {"one/a.jpg": b"1", "two/a.jpg": b"2", "two/a.txt": b"second", "three/a.txt": b"third"}
    source = open_dataset(write_files(tmp_path, files), captions_required=True)
    assert samples(source) == [Sample("two/a", b"2", ["second"])]
    assert problems(source) == {
        "one/a.jpg": "picture without caption",
        "three/a.txt": "caption without picture",
    }


def test_first_suffix_wins_when_pictures_share_a_name(tmp_path: Path) -> None:
    names = ["a.GIF", "a.webp", "a.png", "a.jpeg", "a.JPG"]
    folder = write_files(tmp_path, {"a.txt": b"text"} | {name: name.encode() for name in names})
    for used, *left in (names[: i + 1][::-1] for i in range(len(names) - 1, -1, -1)):
        source = open_dataset(folder, captions_required=True)
        assert samples(source) == [Sample("a", used.encode(), ["text"])]
        assert problems(source) == dict.fromkeys(left, "another picture of this name is used")
        (tmp_path / used).unlink()


def test_hidden_and_unrelated_files_are_ignored(tmp_path: Path) -> None:
    ignored = {
        ".b.jpg": b"",
        ".cache/c.jpg": b"",
        "notes.csv": b"",
        "__readme__.txt": b"",
        "a.json": b"",
    }
    folder = open_dataset(
        write_files(tmp_path / "folder", pairs("a") | ignored), captions_required=True
    )
    shard = open_dataset(
        write_tar(
            tmp_path / "a.tar", [*pairs("a").items(), ("._a.jpg", b""), ("__MACOSX/a.jpg", b"")]
        ),
        captions_required=True,
    )
    assert keys(folder) == keys(shard) == ["a"]
    assert folder.problems == shard.problems == []


def test_of_several_caption_files_the_first_known_suffix_counts(tmp_path: Path) -> None:
    captions = {"a.txt": b"lines", "a.caption": b"kohya", "a.json": b'{"caption": "img2dataset"}'}
    files = {"a.jpg": b"1", **captions}
    folder = write_files(tmp_path, files)
    for name, expected in zip(captions, ["lines", "kohya", "img2dataset"], strict=True):
        source = open_dataset(folder, captions_required=True)
        assert samples(source) == [Sample("a", b"1", [expected])]
        assert source.problems == [] and source.unread == {}
        (tmp_path / name).unlink()


def test_what_is_not_read_is_counted_by_suffix(tmp_path: Path) -> None:
    others = {"b.mp4": b"", "c.MP4": b"", "d.tiff": b"", "README": b"", "stats.json": b"{}"}
    files = pairs("a") | others
    expected = {".mp4": 2, ".tiff": 1, ".json": 1, "no suffix": 1}
    folder = open_dataset(write_files(tmp_path / "folder", files), captions_required=True)
    shard = open_dataset(write_tar(tmp_path / "a.tar", list(files.items())), captions_required=True)
    assert folder.unread == shard.unread == expected
    assert shard.problems == [(f"{tmp_path}/a.tar:d.tiff", "unsupported picture format")]


def both(tmp_path: Path, files: dict[str, bytes]) -> list[Source]:
    """The same files as a folder and as a shard, whose captions are not required."""
    folder = write_files(tmp_path / "folder", files)
    shard = write_tar(tmp_path / "all.tar", list(files.items()))
    return [open_dataset(spec, captions_required=True) for spec in (folder, shard)]


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".jif", ".apng", ".JFIF"])
def test_rarer_suffixes_of_known_formats_are_read(tmp_path: Path, suffix: str) -> None:
    for source in both(tmp_path, {f"a{suffix}": b"1", "a.txt": b"one"}):
        assert samples(source) == [Sample("a", b"1", ["one"])] and source.unread == {}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["x.jpg", "x.jpg.txt"], ["x.jpg.txt"]),
        (["x.input.jpg", "x.outputs.txt"], ["x.outputs.txt"]),
        (["x.input.jpg", "x.txt"], ["x.txt"]),
        (["x.jpg", "x.caption.txt"], ["x.caption.txt"]),
        (["x.jpg", "x.0.txt", "x.1.txt", "x.10.txt", "x.2.txt"], [0, 1, 2, 10]),
        (["x.jpg", "x.txt", "x.0.txt"], ["x.txt"]),
        (["x.jpg", "x.short.txt", "x.long.txt"], None),
        (["x.0.jpg", "x.1.jpg", "x.txt"], None),
        (["x.0.jpg", "x.1.jpg", "x.0.jpg.txt"], ["x.0.jpg.txt"]),
        (["x.jpg", "sub/x.0.txt"], None),
        (["x.jpg", "x.meta.json"], None),
        (["x.jpg", "x.jpg.json"], ["x.jpg.json"]),
        (["x.jpg", "y.txt"], None),
    ],
    ids=lambda value: " ".join(map(str, value)) if value else "none",
)
def test_captions_of_other_names_are_taken_where_there_is_no_doubt(
    tmp_path: Path, names: list[str], expected: list | None
) -> None:
    files = {
        name: b'{"caption": "%s"}' % name.encode() if name.endswith(".json") else name.encode()
        for name in [*names, "other.jpg", "other.txt"]
    }
    taken = [f"x.{name}.txt" if isinstance(name, int) else name for name in expected or []]
    for source in both(tmp_path, files):
        captions = {source.key(i): source.captions(i) for i in range(len(source))}
        assert captions.pop("other") == ["other.txt"]
        assert list(captions.values()) == ([taken] if taken else [])
        assert not [where for where, _ in source.problems if where.endswith(tuple(taken))]


def test_unknown_suffixes_are_told_and_not_charged_to_the_caption(tmp_path: Path) -> None:
    files = pairs("a") | {"b.jpg_large": b"1", "b.txt": b"two", "c.txt": b"three", "d.mp4": b""}
    for source in both(tmp_path, files):
        told = {re.split("[/:]", where)[-1]: reason for where, reason in source.problems}
        assert told == {
            "b.jpg_large": "unknown suffix or none, not read",
            "c.txt": "caption without picture",
        }
        assert keys(source) == ["a"] and source.n_lost == 1
        assert source.unread == {".jpg_large": 1, ".mp4": 1}
