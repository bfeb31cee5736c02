"""What `--data` may say: which specs open what, and how those that lead nowhere are refused."""

import os
from pathlib import Path

import pytest
from layouts import keys, pairs, write_files, write_tar

from dalle_cli.data.sources import describe_unread, open_dataset
from dalle_cli.errors import DalleError, UsageError, printable


@pytest.mark.parametrize("spec", ["s-{08..11}.tar", "s-*.tar", "s-{0..1}{0..9}.tar", ""])
def test_ranges_globs_and_folders_open_all_shards_in_order(tmp_path: Path, spec: str) -> None:
    numbers = [f"{number:02d}" for number in (range(20) if "}{" in spec else range(8, 12))]
    for number in reversed(numbers):
        write_tar(tmp_path / f"s-{number}.tar", list(pairs(number).items()))
    (tmp_path / "s-notes.md").write_text("not a shard")
    assert keys(open_dataset(str(tmp_path / spec), captions_required=True)) == numbers


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("a-{0..999999999}.tar", "shard is missing: .*a-1.tar"),
        ("a-{1..0}.tar", "empty range"),
        ("b-*.tar", "no tar or parquet file matches"),
        ("nowhere", "no such file or folder"),
        ("\x1b31m", "no such file or folder: .*\ufffd31m"),
        ("a.md", "not a data set"),
        ("empty", "no captioned pictures"),
    ],
)
def test_specs_that_lead_nowhere_are_errors_with_a_hint(
    tmp_path: Path, spec: str, message: str
) -> None:
    write_tar(tmp_path / "a-0.tar", list(pairs("a").items()))
    (tmp_path / "a.md").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DalleError, match=message) as caught:
        open_dataset(str(tmp_path / spec), captions_required=True)
    assert caught.value.hint


@pytest.mark.parametrize(
    "spec", ["pipe:touch owned", "https://example.com/a.tar", "file:///a.tar", "s3://b/{0..9}.tar"]
)
def test_commands_and_addresses_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DalleError, match="local files"):
        open_dataset(spec, captions_required=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("captions_required", [True, False])
def test_loose_pictures_beside_shards_are_asked_about(
    tmp_path: Path, captions_required: bool
) -> None:
    """Two pictures never take the place of ten thousand."""
    write_tar(tmp_path / "00000.tar", list(pairs("a", "b").items()))
    folder = write_files(tmp_path, {"preview.png": b"", "sub/sample.jpg": b""})
    with pytest.raises(UsageError) as caught:
        open_dataset(folder, captions_required=captions_required)
    counts = f"{folder} holds both .tar files (1) and loose pictures (2), such as {folder}/preview"
    assert caught.value.message.startswith(counts)
    assert f"name the .tar files alone: '{folder}/*.tar'" in caught.value.hint

    shards = open_dataset(f"{folder}/*.tar", captions_required=captions_required)
    assert keys(shards) == ["a", "b"]


def test_shards_below_a_folder_are_named_by_a_pattern_that_finds_them(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write_tar(tmp_path / "sub" / "00000.tar", list(pairs("a").items()))
    folder = write_files(tmp_path, {"preview.png": b""})
    with pytest.raises(UsageError) as caught:
        open_dataset(folder, captions_required=True)
    pattern = f"{folder}/**/*.tar"
    assert pattern in caught.value.hint
    assert keys(open_dataset(pattern, captions_required=True)) == ["a"]


def test_empty_spec_does_not_open_the_current_folder() -> None:
    with pytest.raises(DalleError, match="no such file or folder"):
        open_dataset("", captions_required=True)


def test_hint_says_where_the_missing_captions_belong(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "birds", {f"{number:03d}.jpg": b"" for number in range(12)})
    with pytest.raises(DalleError, match="no captioned pictures") as caught:
        open_dataset(folder, captions_required=True)
    expected = f"found 12 pictures but no captions: put {folder}/000.txt next to {folder}/000.jpg"
    assert caught.value.hint == expected


def test_hint_counts_what_was_found_and_names_the_layouts(tmp_path: Path) -> None:
    folder = write_files(tmp_path, {"a.jpg": b"", "b.txt": b"", "c.txt": b""})
    with pytest.raises(DalleError) as caught:
        open_dataset(folder, captions_required=True)
    assert f"2 x caption without picture ({folder}/b.txt)" in caught.value.hint
    assert f"1 x picture without caption ({folder}/a.jpg)" in caught.value.hint
    assert "manifest" in caught.value.hint


def test_refusal_counts_what_was_found_and_advises(tmp_path: Path) -> None:
    files = {f"{n}.tiff": b"" for n in range(12)} | {f"{n}.mp4": b"" for n in range(3)}
    folder = write_files(tmp_path, files | {"rows.csv": b"image,caption\n"})
    with pytest.raises(DalleError, match="no pictures in") as caught:
        open_dataset(folder, captions_required=False)
    assert "found 12 .tiff, 3 .mp4, 1 .csv; 12 x unsupported picture format" in caught.value.hint
    assert "convert them to JPEG, PNG, WebP or GIF" in caught.value.hint
    assert "to read the .csv file, name it instead of the folder" in caught.value.hint


@pytest.mark.parametrize(
    ("files", "spec", "form"),
    [
        (pairs("a"), "", "folder of pictures with .txt captions"),
        ({"a.jpg": b""}, "", "folder of pictures without captions"),
        (
            {"a.jpg": b"", "b.jpg": b"", "b.caption": b"x"} | pairs("c"),
            "",
            "folder of pictures with .txt and .caption captions",
        ),
        (
            {"a.jpg": b"", "a.csv": b"image,title\na.jpg,x\n"},
            "a.csv",
            "CSV file, pictures in `image`, captions in `title`",
        ),
        (
            {"a.jpg": b"", "a.jsonl": b'{"path": "a.jpg"}\n'},
            "a.jsonl",
            "JSON Lines file, pictures in `path`, no captions",
        ),
    ],
)
def test_source_says_what_it_was_taken_for(
    tmp_path: Path, files: dict[str, bytes], spec: str, form: str
) -> None:
    folder = write_files(tmp_path / "folder", files)
    assert open_dataset(os.path.join(folder, spec), captions_required=False).form == form
    if not spec:
        shard = write_tar(tmp_path / "a.tar", list(files.items()))
        expected = form.replace("folder", "tar shard")
        assert open_dataset(shard, captions_required=False).form == expected


def test_many_kinds_of_files_are_summed_up() -> None:
    unread = {f".{n}": 20 - n for n in range(8)}
    assert describe_unread(unread) == "20 .0, 19 .1, 18 .2, 17 .3, 16 .4, 15 .5, 27 others"
    assert describe_unread({".\x1b": 1000}) == "1,000 .\ufffd" and describe_unread({}) == ""


def test_file_names_reach_problems_and_messages_printable(tmp_path: Path) -> None:
    folder = write_files(
        tmp_path / "\x1b]0;owned\x07", {"\x1b[31mred\u202e.jpg": b"", "\udcff.txt": b""}
    )
    with pytest.raises(DalleError) as caught:
        open_dataset(folder, captions_required=True)
    for text in (caught.value.message, caught.value.hint):
        assert printable(text) == text
    source = open_dataset(folder, captions_required=False)
    assert all(printable(where) == where for where, _ in source.problems)
    assert source.key(0) == "\x1b[31mred\u202e"
