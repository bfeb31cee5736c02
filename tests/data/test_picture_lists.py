"""Picture lists: folders, manifests, lists and single pictures; errors name the row."""

import csv
import io
import json
import os
import sys
from pathlib import Path

import pytest

from dalle_cli.data.picture_lists import ListedPicture, find_pictures, list_pictures
from dalle_cli.errors import DalleError

ODD = os.fsdecode(b"\xff caf\xe9.png")  # a name that is not UTF-8


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def listed(spec: object) -> list[tuple[str, str | None]]:
    return [(str(picture.path), picture.caption) for picture in list_pictures(str(spec)).pictures]


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def give(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put bytes on the standard input, which as on a terminal in UTF-8 takes no others for text."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8"))


def test_folder_lists_its_pictures_and_those_below_by_name() -> None:
    touch(
        "in/b.png",
        "in/a/z.JPG",
        "in/a/y.webp",
        "in/c.gif",
        "in/B.jpeg",
        "in/notes.txt",
        "in/d.tiff",
        "in/png",
    )
    names = ["B.jpeg", "a/y.webp", "a/z.JPG", "b.png", "c.gif"]
    assert listed("in") == [(f"in/{name}", None) for name in names]


def test_hidden_files_and_folders_and_what_is_no_file_are_passed_over() -> None:
    touch(
        "in/.hidden.png",
        "in/.thumbnails/a.png",
        "in/sub/.git/b.png",
        "in/folder.png/c.png",
        "in/shown.png",
    )
    Path("in/broken.png").symlink_to("nowhere")
    assert listed("in") == [("in/folder.png/c.png", None), ("in/shown.png", None)]


def test_folders_that_systems_make_are_passed_over() -> None:
    touch("in/@eaDir/a.png/THUMB_M.jpg", "in/$Recycle.Bin/b.png", "in/sub/__MACOSX/c.png")
    touch("in/Thumbs.db", "in/shown.png")
    assert listed("in") == [("in/shown.png", None)]


def test_what_is_passed_over_in_a_folder_is_counted_and_told() -> None:
    touch("in/a.png", "in/a.txt", "in/b.bmp", "in/c.bmp", "in/sub/d.avif", "in/rows.json", "in/pdf")
    Path("in/hash").write_bytes(b"\xff\xd8\xff")
    Path("in/linked").symlink_to("sub")
    Path("in/gone.png").symlink_to("nowhere")
    found = list_pictures("in")
    assert [str(picture.path) for picture in found.pictures] == ["in/a.png", "in/hash"]
    assert found.unread == {".bmp": 2, ".json": 1, "no suffix": 1, ".avif": 1}
    assert found.problems == [
        ("in/gone.png", "not a regular file"),
        ("in/linked", "linked folder, not entered"),
    ]


def test_folder_without_a_picture_is_told_with_what_it_holds() -> None:
    touch("in/a.bmp", "in/b.tiff", "in/c.bmp")
    with pytest.raises(DalleError, match="no pictures in in") as caught:
        list_pictures("in")
    assert caught.value.hint.startswith("not read: 2 .bmp, 1 .tiff; expected a folder")


def test_folder_below_a_hidden_one_is_searched_when_it_is_named() -> None:
    touch(".hidden/in/a.png")
    assert listed(".hidden/in") == [(".hidden/in/a.png", None)]


def test_drawn_folder_is_read_by_its_manifest() -> None:
    touch("drawn/0000.png", "drawn/grid.png")
    Path("drawn/manifest.jsonl").write_text(
        '{"file": "0000.png", "caption": "a ring", "seed": 3}\n'
    )
    Path("drawn/job.json").write_text('{"command": "generate"}')
    assert listed("drawn") == listed("drawn/manifest.jsonl") == [("drawn/0000.png", "a ring")]


@pytest.mark.parametrize(
    "job",
    [None, '{"command": "rerank"}', "{}", "[]", '"generate"', "{", "", b"\xff", "[" * 100_000],
    ids=lambda job: str(job)[:40],
)
def test_manifest_in_a_folder_that_was_not_drawn_does_not_count(job: str | bytes | None) -> None:
    touch("theirs/a.png", "theirs/b.png")
    Path("theirs/manifest.jsonl").write_text('{"file": "a.png", "caption": "a ring"}\n')
    if job is not None:
        Path("theirs/job.json").write_bytes(job if isinstance(job, bytes) else job.encode())
    assert listed("theirs") == [("theirs/a.png", None), ("theirs/b.png", None)]


def test_folder_drawn_without_a_manifest_lists_its_pictures(hang_guard: None) -> None:
    touch("drawn/0000.png")
    Path("drawn/job.json").write_text('{"command": "generate"}')
    Path("drawn/manifest.jsonl").mkdir()
    assert listed("drawn") == [("drawn/0000.png", None)]
    Path("drawn/job.json").unlink()
    os.mkfifo("drawn/job.json")
    assert listed("drawn") == [("drawn/0000.png", None)]


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "picture"])
def test_single_picture_is_taken_whatever_its_name(name: str) -> None:
    touch(name)
    assert listed(name) == [(name, None)]


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_list_is_read_alike_from_file_and_standard_input(
    start: bytes, end: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [
        "z.png",
        "sub/a b.png",
        ODD,
        " spaced.png",
        "form\ffeed\x1c\x85\u2028.png",
        str(tmp_path / "x"),
        "z.png",
    ]
    lines = [name.encode("utf-8", "surrogateescape") for name in names]
    data = start + end.join([*lines[:2], b"", b" \t", *lines[2:]])
    for content in (data, data + end):
        Path("sub").mkdir(exist_ok=True)
        Path("sub/list.TXT").write_bytes(content)
        give(content, monkeypatch)
        assert listed("sub/list.TXT") == listed("-") == [(name, None) for name in names]


def test_manifests_name_pictures_beside_themselves_and_captions(tmp_path: Path) -> None:
    rows = [
        {"file": "a.png", "caption": "a ring", "seed": 3},
        {"file": "../b.png", "caption": ' two,\n "lines"\u2028\x85x '},
        {"file": str(tmp_path / "c.png"), "caption": ""},
        {"file": ODD, "caption": "Kreis über"},
        {"file": "d e.png", "caption": " \t"},
    ]
    expected = [
        ("lists/a.png", "a ring"),
        ("lists/../b.png", 'two,  "lines"  x'),
        (str(tmp_path / "c.png"), None),
        (f"lists/{ODD}", "Kreis über"),
        ("lists/d e.png", None),
    ]
    Path("lists").mkdir()
    for key in ("file", "image"):
        renamed = [
            {key if name == "file" else name: value for name, value in row.items()} for row in rows
        ]
        lines = [json.dumps(row, ensure_ascii="\udcff" in row[key]) for row in renamed]
        Path("lists/rows.jsonl").write_text("\n\n".join(["\ufeff" + lines[0], *lines[1:]]), "utf-8")
        assert listed("lists/rows.jsonl") == expected
        for dialect in ("excel", "unix"):
            options = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
            with open("lists/rows.CSV", "w", **options) as file:
                file.write("\ufeff")
                table = csv.DictWriter(file, [key, "caption", "seed"], dialect=dialect)
                table.writeheader()
                table.writerows(renamed)
            assert listed("lists/rows.CSV") == expected


@pytest.mark.parametrize(
    ("row", "caption"),
    [
        ({"captions": ["one", "two"]}, "one"),
        ({"captions": ["", " ", "two"]}, "two"),
        ({"captions": []}, None),
        ({"captions": "one"}, "one"),
        ({"caption": ["one", "two"]}, "one"),
        ({"captions": ["one"], "caption": "another"}, "one"),
        ({"captions": None, "caption": None}, None),
    ],
    ids=str,
)
def test_first_of_several_captions_counts_as_a_manifest_for_training_gives_them(
    row: dict[str, object], caption: str | None
) -> None:
    Path("rows.jsonl").write_text(json.dumps({"image": "a.png", **row}))
    assert listed("rows.jsonl") == [("a.png", caption)]


@pytest.mark.parametrize(
    "captions", ['"caption": 3', '"captions": ["a ring", 3]', '"captions": {"en": "a ring"}']
)
def test_row_with_a_caption_that_is_no_text_is_told_by_its_number(captions: str) -> None:
    Path("rows.jsonl").write_text(GOOD + '\n{"file": "a.png", ' + captions + "}")
    with pytest.raises(
        DalleError, match=r"rows\.jsonl: row 2: `captions?` must be text or a list of texts"
    ):
        list_pictures("rows.jsonl")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.tsv", "file\tcaption\na.png\ta ring, red\n"),
        ("rows.csv", "File; Caption\na.png; a ring, red\n"),
        ("rows.csv", 'filepath,title\na.png,"a ring, red"\n'),
        ("rows.ndjson", '{"image_path": "a.png", "captions": [], "text": "a ring, red"}\n'),
        ("rows.json", '[{"file_name": "a.png", "caption": "a ring, red"}]'),
    ],
)
def test_manifests_are_the_tables_that_training_takes(name: str, content: str) -> None:
    Path(name).write_text(content, "utf-16")
    assert listed(name) == [("a.png", "a ring, red")]


def test_file_counts_before_image_unless_it_is_empty() -> None:
    Path("rows.csv").write_text("image,file\na.png,b.png\nc.png,\n")
    assert listed("rows.csv") == [("b.png", None), ("c.png", None)]


GOOD = '{"file": "a.png", "caption": "a ring"}'


@pytest.mark.parametrize(
    "row",
    [
        "{}",
        "[]",
        "3",
        "null",
        "{",
        '{"caption": "a ring"}',
        '{"file": ""}',
        '{"file": 3}',
        '{"file": ["a.png"]}',
        "[" * 100_000,
    ],
    ids=lambda row: row[:40],
)
def test_row_that_names_no_picture_is_told_by_its_number(row: str) -> None:
    Path("rows.jsonl").write_text(f"{GOOD}\n{GOOD}\n{row}\n{GOOD}\n")
    with pytest.raises(
        DalleError, match=r"rows\.jsonl: row 3 does not name a picture as `file` or `image`"
    ):
        list_pictures("rows.jsonl")


@pytest.mark.parametrize(
    "row",
    [
        rb'{"file": "\ud800.png"}',
        rb'{"file": "a", "caption": "\udcff"}',
        b'{"file": "a", "caption": "\xff"}',
    ],
)
def test_row_with_text_that_is_none_is_told_by_its_number(row: bytes) -> None:
    Path("rows.jsonl").write_bytes(f"{GOOD}\n".encode() + row)
    with pytest.raises(DalleError, match=r"rows\.jsonl: row 2.* not UTF-8"):
        list_pictures("rows.jsonl")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("foto,caption\na.png,x\n", "row 1 does not name a picture"),
        ("file|caption\na.png|x\n", "row 1 does not name a picture"),
        ("file,caption\na.png,a red, round ring\n", "line 2: 3 cells, where the first line"),
        ("file,caption\nhttps://example.com/a.png,x\n", "row 1 names an address"),
        ("caption,file\nx,a.png\ny\n", "row 2 does not name a picture"),
        ('file,caption\na.png,x\nb.png,"never closed\n', "line 3: unexpected end"),
        (f"file,caption\na.png,{'x' * 200_000}\n", "line 2: field larger"),
    ],
    ids=["columns", "separator", "long row", "address", "short row", "quote", "size"],
)
def test_csv_that_cannot_be_understood_is_told_by_its_place(content: str, told: str) -> None:
    Path("rows.csv").write_text(content)
    with pytest.raises(DalleError, match=rf"rows\.csv(:|,) {told}"):
        list_pictures("rows.csv")


@pytest.mark.parametrize("spec", ["in", "rows.jsonl", "rows.csv", "list.txt", "-"])
def test_nothing_listed_is_told(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    touch("in/notes.txt", "rows.jsonl")
    Path("rows.csv").write_text("file,caption\n")
    Path("list.txt").write_text("\ufeff \n\n", "utf-8")
    give(b"\n", monkeypatch)
    with pytest.raises(DalleError, match=f"no pictures in {spec}"):
        list_pictures(spec)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("absent.png", "no such picture or folder: absent.png"),
        ("absent.txt", "cannot read absent.txt: No such file"),
        ("absent.csv", "cannot read absent.csv: No such file"),
        ("absent.jsonl", "cannot read absent.jsonl: No such file"),
    ],
)
def test_what_is_not_there_is_told(spec: str, told: str) -> None:
    with pytest.raises(DalleError, match=told):
        list_pictures(spec)


def test_names_that_are_not_utf8_are_found_in_folders() -> None:
    os.makedirs("in")
    Path("in", ODD).touch()
    assert list_pictures("in").pictures == [ListedPicture(Path("in") / ODD)]


def test_pictures_and_folders_are_found_in_the_order_they_are_named() -> None:
    touch("z.png", "b/2.png", "b/1.png", "a/3.png")
    found = find_pictures([Path("z.png"), Path("b"), Path("a")]).pictures
    assert [str(picture.path) for picture in found] == ["z.png", "b/1.png", "b/2.png", "a/3.png"]
    with pytest.raises(DalleError, match="no such picture or folder: gone"):
        find_pictures([Path("z.png"), Path("gone")])
