"""Caption files: one clean caption per line, and a fault where one is needed and none is there."""

from pathlib import Path

import pytest
from layouts import write_files

from dalle_cli.data.images import BadSample
from dalle_cli.data.sources import open_dataset


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
    ],
)
def test_caption_file_gives_one_clean_caption_per_line(
    tmp_path: Path, content: bytes, expected: list[str]
) -> None:
    source = open_dataset(
        write_files(tmp_path, {"a.jpg": b"", "a.txt": content}), captions_required=True
    )
    assert source.captions(0) == source.read(0).captions == expected


@pytest.mark.parametrize("content", [b"", b" \n\t\r\n", b"\x00\n", "\ufeff".encode()])
def test_caption_without_text_is_a_fault_only_where_captions_are_needed(
    tmp_path: Path, content: bytes
) -> None:
    folder = write_files(tmp_path, {"a.jpg": b"", "a.txt": content})
    assert open_dataset(folder, captions_required=False).captions(0) == []
    with pytest.raises(BadSample, match="empty caption"):
        open_dataset(folder, captions_required=True).read(0)
