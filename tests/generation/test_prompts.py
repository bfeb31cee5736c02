"""Captions to draw: what a file of each kind holds, and what is wrong with it, by its line."""

import json
from pathlib import Path

import pytest

from dalle_cli.errors import UsageError
from dalle_cli.generation.prompts import read_captions
from dalle_cli.storage import small_files

CAPTIONS = ["a red circle", 'a "blue", thick ring', "ein grüner Ring", "a red circle"]


def written(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "byte order mark"])
def test_lines_of_text_are_cleaned_and_blank_ones_left_out(start: str, tmp_path: Path) -> None:
    file = written(tmp_path / "prompts.txt", f"{start}  a red circle \r\n\n\ta blue ring\n")
    assert read_captions([], file) == ["a red circle", "a blue ring"]


@pytest.mark.parametrize("name", ["prompts.csv", "PROMPTS.CSV"])
@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "byte order mark"])
def test_captions_are_a_column_of_csv(start: str, name: str, tmp_path: Path) -> None:
    quoted = ['"{}"'.format(caption.replace('"', '""')) for caption in CAPTIONS]
    rows = "".join(f"{i},{caption},x\r\n" for i, caption in enumerate(quoted))
    assert (
        read_captions([], written(tmp_path / name, f"{start}id,caption,source\r\n{rows}"))
        == CAPTIONS
    )


def test_line_break_in_a_quoted_caption_becomes_a_space(tmp_path: Path) -> None:
    file = written(tmp_path / "prompts.csv", 'caption\n"a red\ncircle"\na ring\n')
    assert read_captions([], file) == ["a red circle", "a ring"]


def test_captions_are_a_field_of_json_lines(tmp_path: Path) -> None:
    lines = [json.dumps({"id": i, "caption": caption}) for i, caption in enumerate(CAPTIONS)]
    assert read_captions([], written(tmp_path / "prompts.jsonl", "\n\n".join(lines))) == CAPTIONS


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.tsv", "id\tcaption\n1\ta red, round ring\n2\tb\n"),
        ("p.csv", "id;Prompt\n1;a red, round ring\n2;b\n"),
        ("p.json", '["a red, round ring", "b"]'),
        ("p.json", '[{"caption": "a red, round ring"}, {"text": "b"}]'),
        ("p.ndjson", '{"captions": ["a red, round ring", "b"]}\n'),
        ("p.jsonl", '"a red, round ring"\n"b"\n'),
        ("p.v2", "a red, round ring\nb\n"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_files_are_read_as_what_their_ending_says(
    name: str, content: str, encoding: str, tmp_path: Path
) -> None:
    file = written(tmp_path / name, content.encode(encoding))
    assert read_captions([], file) == ["a red, round ring", "b"]


def test_refusal_of_a_format_names_those_that_are_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_captions([], written(tmp_path / "p.parquet", b"PAR1"))
    assert caught.value.hint == (
        "expected text with a caption a line, or a .csv, .tsv, .jsonl, .ndjson or .json table"
    )


def test_captions_of_the_command_line_come_first(tmp_path: Path) -> None:
    assert read_captions(["first"], written(tmp_path / "prompts.csv", "caption\nsecond\n")) == [
        "first",
        "second",
    ]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("p.csv", "id,words\n1,a ring\n", "no column with captions in"),
        ("p.csv", "id,caption\n1,a ring, red\n", ", line 2: 3 cells, where the first line"),
        ("p.csv", 'id,caption\n1,a ring\n2,"a ring" x\n', ", line 3: ',' expected after '\"'"),
        ("p.csv", "id,caption\n1,a ring\n2\n", ", line 3: no caption"),
        ("p.csv", 'id,caption\n1,"a\nring"\n2, \n', ", line 4: no caption"),
        ("p.csv", "caption\n", "no captions"),
        ("p.jsonl", '{"caption": "a ring"}\n\n{"caption": ', ", line 3: not a JSON object"),
        ("p.jsonl", '["a ring"]\n', ", line 1: not a JSON object"),
        ("p.jsonl", '{"caption": 3}\n', ", line 1: `caption` must be text"),
        ("p.jsonl", '{"caption": "\\u0007 "}\n', ", line 1: no caption"),
        ("p.json", '["a ring", 3]', ", row 2: not a JSON object"),
        ("p.json", '{"caption": "a ring"}', "not a list of rows"),
        ("p.json", "a ring", "not JSON"),
        ("p.jsonl", '{"caption": "a \\ud800 ring"}\n', ", line 1: caption is not UTF-8"),
        ("p.jsonl", "", "no captions"),
        ("p.jsonl", b'{"caption": "\xff"}', ", line 1: caption is not UTF-8"),
        ("p.txt", "ein grüner Ring".encode("latin-1"), "it is not UTF-8 text"),
        ("p.yaml", "- a ring", "captions cannot be read from"),
        ("p.XLSX", b"PK", "captions cannot be read from"),
    ],
)
def test_what_is_wrong_is_told_by_its_line(
    name: str, content: str | bytes, told: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        read_captions([], written(tmp_path / name, content))
    assert told in caught.value.message


def test_columns_there_are_are_named_where_the_one_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_captions([], written(tmp_path / "p.csv", "id,words\n1,a ring\n"))
    assert "found: id, words" in caught.value.hint


def test_captions_without_an_end_are_refused(
    monkeypatch: pytest.MonkeyPatch, hang_guard: None
) -> None:
    monkeypatch.setattr(small_files, "LARGEST_FILE", 2**20)
    with pytest.raises(UsageError, match="cannot read captions from /dev/zero: larger than 1 MiB"):
        read_captions([], "/dev/zero")
