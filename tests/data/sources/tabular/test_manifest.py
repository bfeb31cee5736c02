"""Manifests: rows become samples, and faulty ones are told by their line."""

from pathlib import Path

import pytest
from layouts import keys, problems, samples, write_files, write_lines

from dalle_cli.data.sources import Columns, Sample, open_dataset
from dalle_cli.errors import DalleError


def test_rows_with_the_same_picture_add_captions(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.jpg": b"1", "b.jpg": b"2"})
    rows = (
        'image,caption,licence\r\na.jpg,"one, two",x\r\nb.jpg,other,x\r\n'
        './a.jpg,"line\nbreak",x\r\n'
    )
    (tmp_path / "rows.CSV").write_bytes(b"\xef\xbb\xbf" + rows.encode())
    source = open_dataset(str(tmp_path / "rows.CSV"), captions_required=True)
    assert samples(source) == [
        Sample("a", b"1", ["one, two", "line break"]),
        Sample("b", b"2", ["other"]),
    ]


def test_faulty_rows_are_told_by_their_line(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.jpg": b"1", "b.jpg": b"2"})
    lines = [
        b'{"image": "a.jpg", "caption": "good", "size": 1}',
        b"",
        b"{not json",
        b'["a.jpg", "caption"]',
        b'{"caption": "no picture"}',
        b'{"image": "gone.jpg", "caption": "x"}',
        b'{"image": "b.jpg", "caption": "\xff"}',
        b'{"image": "b.jpg", "caption": "\\ud800"}',
        b'{"image": "b.jpg", "captions": [1]}',
        b'{"image": "b.jpg", "captions": ["  "]}',
        b"[" * 100_000,
    ]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    source = open_dataset(str(tmp_path / "rows.jsonl"), captions_required=True)
    assert samples(source) == [Sample("a", b"1", ["good"])]
    assert problems(source) == {
        "3": "not a JSON object",
        "4": "not a JSON object",
        "5": "row without picture",
        "6": "no such file: gone.jpg",
        "7": "caption is not UTF-8",
        "8": "caption is not UTF-8",
        "9": "`captions` must be text or a list of texts",
        "10": "picture without caption",
        "11": "not a JSON object",
    }


def test_manifest_may_name_pictures_anywhere(tmp_path: Path) -> None:
    write_files(tmp_path, {"pictures/a.jpg": b"1", "pictures/b.jpg": b"2", "lists/none": b""})
    rows = f"image,caption\n../pictures/a.jpg,one\n{tmp_path}/pictures/b.jpg,two\n"
    (tmp_path / "lists" / "rows.csv").write_text(rows)
    source = open_dataset(str(tmp_path / "lists" / "rows.csv"), captions_required=True)
    assert [sample.image for sample in samples(source)] == [b"1", b"2"]
    assert keys(source) == ["../pictures/a", f"{tmp_path}/pictures/b"]


@pytest.mark.parametrize("column", ["image", "file_name", "filename", "filepath", "path", "IMG"])
def test_pictures_are_in_any_column_of_a_usual_name(tmp_path: Path, column: str) -> None:
    write_files(tmp_path, {"a.jpg": b"1"})
    (tmp_path / "rows.csv").write_text(f"id,{column},text\n7,a.jpg,one\n")
    write_lines(tmp_path / "rows.jsonl", [{"id": 7, column: "a.jpg", "text": "one"}])
    for name in ("rows.csv", "rows.jsonl"):
        source = open_dataset(str(tmp_path / name), captions_required=True)
        assert samples(source) == [Sample("a", b"1", ["one"])]


def test_columns_can_be_chosen(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.jpg": b"1", "b.jpg": b"2"})
    (tmp_path / "rows.csv").write_text("image,bild,caption,text\na.jpg,b.jpg,one,two\n")
    chosen = Columns(image="bild", caption="text")
    source = open_dataset(str(tmp_path / "rows.csv"), captions_required=True, columns=chosen)
    assert samples(source) == [Sample("b", b"2", ["two"])]


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        ("bild,text\na.jpg,x\n", "no column with pictures", "columns found: bild, text"),
        ("image;caption\na.jpg;x\n", "no column with pictures", "separated by commas"),
        ("image\na.jpg\n", "no column with captions", "columns found: image"),
        ("", "no captioned pictures", "nothing that could be a sample"),
        ('image,caption\na.jpg,"never closed\n', "line 2: unexpected end", "quote"),
    ],
)
def test_csv_that_cannot_be_understood_stops(
    tmp_path: Path, content: str, message: str, hint: str
) -> None:
    (tmp_path / "rows.csv").write_text(content)
    with pytest.raises(DalleError, match=message) as caught:
        open_dataset(str(tmp_path / "rows.csv"), captions_required=True)
    assert hint in caught.value.hint
