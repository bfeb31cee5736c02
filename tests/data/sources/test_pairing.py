"""Pairs never cross folders, one picture of a name is used, and irrelevant files are skipped."""

from pathlib import Path

from layouts import keys, pairs, problems, samples, write_files, write_tar

from dalle_cli.data.sources import Sample, open_dataset


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
