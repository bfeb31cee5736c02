"""Encodings: a byte order mark decides, and what is not UTF-8 without one is refused."""

from pathlib import Path

import pytest

from dalle_cli.data.text.encodings import decode_text, open_text

TEXT = "ein grüner Ring\r\n红色的圆 🔴\n"


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (b"\xef\xbb\xbf", "utf-8"),
        (b"\xff\xfe", "utf-16-le"),
        (b"\xfe\xff", "utf-16-be"),
        (b"\xff\xfe\0\0", "utf-32-le"),
        (b"\0\0\xfe\xff", "utf-32-be"),
    ],
)
def test_byte_order_mark_tells_the_encoding(mark: bytes, encoding: str, tmp_path: Path) -> None:
    data = mark + TEXT.encode(encoding)
    assert decode_text(data) == TEXT
    (tmp_path / "text").write_bytes(data)
    with open_text(str(tmp_path / "text")) as file:
        assert file.read() == TEXT


@pytest.mark.parametrize("encoding", ["gbk", "latin-1", "utf-16-le"])
def test_other_encodings_are_not_guessed(encoding: str, tmp_path: Path) -> None:
    text = "ü" if encoding == "latin-1" else "红"
    data = f"{text} ring".encode(encoding)
    with pytest.raises(UnicodeDecodeError):
        decode_text(data)
    (tmp_path / "text").write_bytes(data)
    with open_text(str(tmp_path / "text")) as file:
        assert file.read().encode("utf-8", "surrogateescape") == data
