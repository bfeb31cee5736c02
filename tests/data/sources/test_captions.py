"""Caption files: one clean caption per line, and a fault where one is needed and none is there."""

import json
from pathlib import Path

import pytest
from layouts import write_files, write_tar

from dalle_cli.data.images import BadSample
from dalle_cli.data.sources import Columns, open_dataset


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xef\xbb\xbfa white arrow\r\nan arrow\r\n", ["a white arrow", "an arrow"]),
        (b"one\rtwo\n\n  \t\nthree", ["one", "two", "three"]),
        (b"a white\x00 arrow\x07 pointing\x1b[31m up\x7f\n", ["a white arrow pointing[31m up"]),
        (
            "tab\there \u202eoverride\u202c \u2066isolate\u2069 \x85".encode(),
            ["tab\there override isolate"],
        ),
        (
            "\u2b06\ufe0f\U0001f469\U0001f3fd\u200d\U0001f680".encode(),
            ["\u2b06\ufe0f\U0001f469\U0001f3fd\u200d\U0001f680"],
        ),
        (b"word " * 5000, [("word " * 5000).strip()]),
        (b"caption\n" * 1000, ["caption"] * 1000),
        ("ein grüner Ring\r\n红\r\n".encode("utf-16"), ["ein grüner Ring", "红"]),
        ("红".encode("utf-32"), ["红"]),
    ],
)
def test_caption_file_gives_one_clean_caption_per_line(
    tmp_path: Path, content: bytes, expected: list[str]
) -> None:
    source = open_dataset(
        write_files(tmp_path, {"a.jpg": b"", "a.txt": content}), captions_required=True
    )
    assert source.captions(0) == source.read(0).captions == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty caption"),
        (b" \n\t\r\n", "empty caption"),
        (b"\x00\n", "empty caption"),
        ("\ufeff".encode(), "empty caption"),
        ("".encode("utf-16"), "empty caption"),
        ("红色的圆".encode("gbk"), "caption is not UTF-8"),
        ("grün".encode("latin-1"), "caption is not UTF-8"),
    ],
)
def test_unusable_caption_is_a_fault_that_only_captions_needed_raise(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    files = {"a.jpg": b"", "a.txt": content}
    specs = [
        write_files(tmp_path / "folder", files),
        write_tar(tmp_path / "a.tar", list(files.items())),
    ]
    for spec in specs:
        lenient = open_dataset(spec, captions_required=False)
        assert lenient.captions(0) == [] and lenient.read(0).caption_fault == reason
        with pytest.raises(BadSample, match=reason):
            open_dataset(spec, captions_required=True).read(0)


def test_missing_caption_is_told_from_an_unusable_one(tmp_path: Path) -> None:
    files = {"a.jpg": b"", "rows.csv": b"image,caption\na.jpg,\n"}
    folder = write_files(tmp_path / "folder", files)
    for spec in (folder, write_tar(tmp_path / "a.tar", [("a.jpg", b"")]), f"{folder}/rows.csv"):
        sample = open_dataset(spec, captions_required=False).read(0)
        assert sample.captions == [] and sample.caption_fault == "picture without caption"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"caption": "a bird\n", "key": "00001", "url": "x"}, ["a bird"]),
        ({"captions": ["one", " ", "two\x1b"], "caption": "three"}, ["one", "two"]),
        ({"text": "a bird", "title": "else"}, ["a bird"]),
    ],
)
def test_json_beside_a_picture_gives_its_captions(
    tmp_path: Path, content: dict, expected: list[str]
) -> None:
    files = {"a.jpg": b"", "a.json": json.dumps(content).encode()}
    folder = open_dataset(write_files(tmp_path / "folder", files), captions_required=True)
    shard = open_dataset(write_tar(tmp_path / "a.tar", list(files.items())), captions_required=True)
    for source in (folder, shard):
        assert source.captions(0) == source.read(0).captions == expected
        assert source.form.endswith("with .json captions")


def test_key_of_json_captions_can_be_chosen(tmp_path: Path) -> None:
    folder = write_files(tmp_path, {"a.jpg": b"", "a.json": b'{"caption": "x", "words": "y"}'})
    for word, expected in (("words", ["y"]), ("caption", ["x"])):
        columns = Columns(caption=word)
        assert open_dataset(folder, captions_required=True, columns=columns).captions(0) == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "caption file is not JSON"),
        (b"[" * 100_000, "caption file is not JSON"),
        (b'"\xff"', "caption file is not JSON"),
        (b"[]", "caption file is not a JSON object"),
        (b'{"caption": null}', "no `caption` in its .json"),
        (b'{"width": 3}', "no `caption` in its .json"),
        (b'{"caption": 3}', "`caption` must be text or a list of texts"),
        (b'{"caption": "\\ud800"}', "caption is not UTF-8"),
    ],
)
def test_json_without_captions_is_a_fault_only_where_captions_are_needed(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    folder = write_files(tmp_path, {"a.jpg": b"", "a.json": content})
    assert open_dataset(folder, captions_required=False).captions(0) == []
    with pytest.raises(BadSample, match=reason):
        open_dataset(folder, captions_required=True).read(0)
