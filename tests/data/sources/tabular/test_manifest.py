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
        "6": f"no such file in {tmp_path}: gone.jpg",
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


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.tsv", "image\tcaption\na.jpg\tone, two\n"),
        ("rows.TSV", 'file\tcaption\na.jpg\t"one, two"\n'),
        ("rows.csv", "image\tcaption\na.jpg\tone, two\n"),
        ("rows.csv", "image;caption\na.jpg;one, two\n"),
        ("rows.csv", "sep=;\nimage;caption\na.jpg;one, two\n"),
        ("rows.csv", '"a;b",image,caption\nx,a.jpg,"one, two"\n'),
        ("rows.csv", 'image, caption\na.jpg, "one, two"\n'),
        ("rows.csv", 'caption , image \n"one, two", a.jpg\n'),
        ("rows.csv", 'image,caption,\na.jpg,"one, two",\na.jpg,"",,,\n'),
        ("rows.csv", 'Filepath,TITLE\na.jpg,"one, two"\n'),
        ("rows.ndjson", '{"image": "a.jpg", "caption": "one, two"}\n'),
        ("rows.json", '[{"image": "a.jpg", "caption": "one, two"}]'),
        ("rows.json", '\n [\n{"file": "a.jpg", "captions": [],\n "caption": "one, two"}]'),
        ("rows.jsonl", '{"image": "https://x.org/b.jpg", "path": "a.jpg", "text": "one, two"}'),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_tables_are_read_whatever_their_separator_and_encoding(
    tmp_path: Path, name: str, content: str, encoding: str
) -> None:
    write_files(tmp_path, {"a.jpg": b"1", name: content.encode(encoding)})
    source = open_dataset(str(tmp_path / name), captions_required=True)
    assert samples(source) == [Sample("a", b"1", ["one, two"])]
    assert source.problems == []


def test_faulty_rows_of_a_list_are_told_by_their_number(tmp_path: Path) -> None:
    rows = '[{"image": "a.jpg", "caption": "good"}, 3, {"caption": "no picture"}]'
    write_files(tmp_path, {"a.jpg": b"1", "rows.json": rows.encode()})
    source = open_dataset(str(tmp_path / "rows.json"), captions_required=True)
    assert problems(source) == {" row 2": "not a JSON object", " row 3": "row without picture"}
    assert source.form == "JSON list, pictures in `image`, captions in `caption`"


def test_addresses_and_missing_pictures_are_told_with_what_helps(tmp_path: Path) -> None:
    rows = "image,caption\nhttps://example.com/a.jpg,x\nS3://b/c.jpg,x\nimgs/a.jpg,x\n/no/b.jpg,x\n"
    write_files(tmp_path, {"rows.csv": rows.encode()})
    with pytest.raises(DalleError, match="no captioned pictures") as caught:
        open_dataset(str(tmp_path / "rows.csv"), captions_required=True)
    hint = caught.value.hint
    address = "2 x an address, not a file; download the pictures first, as with img2dataset ("
    assert f"{address}{tmp_path}/rows.csv:2: https://example.com/a.jpg)" in hint
    assert f"1 x no such file in {tmp_path} ({tmp_path}/rows.csv:4: imgs/a.jpg)" in hint
    assert f"1 x no such file ({tmp_path}/rows.csv:5: /no/b.jpg)" in hint


def test_captions_of_other_encodings_are_told_by_their_rows(tmp_path: Path) -> None:
    rows = "image,caption\na.jpg,ein grüner Ring\na.jpg,a ring\n".encode("latin-1")
    write_files(tmp_path, {"a.jpg": b"1", "rows.csv": rows})
    source = open_dataset(str(tmp_path / "rows.csv"), captions_required=True)
    assert source.captions(0) == ["a ring"]
    assert problems(source) == {"2": "caption is not UTF-8"}


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
        ("image|caption\na.jpg|x\n", "no column with pictures", "separated by commas"),
        ("image\na.jpg\n", "no column with captions", "columns found: image"),
        ("", "no captioned pictures", "nothing that could be a sample"),
        ('image,caption\na.jpg,"never closed\n', "line 2: unexpected end", "quote"),
        (
            "image,caption\na.jpg,a red shape, number 0, on white\n",
            "line 2: 4 cells, where the first line names 2 columns",
            "a caption with `,` in it must stand in double quotes",
        ),
        (
            "image\tcaption\na.jpg\tone\na.jpg\ta\tb\n",
            "line 3: 3 cells",
            "a caption with a tab in it must stand in double quotes",
        ),
        ("sep=;\nimage;caption\na.jpg;one;two\n", "line 3: 3 cells", "in double quotes"),
        ("image,caption,caption\na.jpg,a,b\n", "two columns `caption`", "several rows"),
        ("URL,TEXT\nhttps://example.com/a.jpg,x\n", "addresses in `URL`", "img2dataset"),
    ],
)
def test_csv_that_cannot_be_understood_stops(
    tmp_path: Path, content: str, message: str, hint: str
) -> None:
    (tmp_path / "rows.csv").write_text(content)
    with pytest.raises(DalleError, match=message) as caught:
        open_dataset(str(tmp_path / "rows.csv"), captions_required=True)
    assert hint in caught.value.hint
