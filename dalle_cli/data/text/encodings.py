"""Which encoding a text file is in: UTF-8, unless a byte order mark says UTF-16 or UTF-32."""

import codecs
from typing import TextIO

NOT_UTF8 = "caption is not UTF-8"
TO_UTF8 = "save text files as UTF-8, as with `iconv -f GBK -t UTF-8 old.txt > new.txt`"

# A mark of UTF-32 begins like one of UTF-16
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decode_text(data: bytes, errors: str = "strict") -> str:
    """Decode the content of a text file, without its byte order mark.

    errors  as of `bytes.decode`

    Raises UnicodeDecodeError if it is in another encoding.
    """
    return data.decode(_encoding_of(data), errors)


def open_text(path: str) -> TextIO:
    """Open a text file, whose lines keep their ends and whose odd bytes become surrogates."""
    with open(path, "rb") as file:
        encoding = _encoding_of(file.read(4))
    return open(path, encoding=encoding, errors="surrogateescape", newline="")


def _encoding_of(start: bytes) -> str:
    return next((encoding for mark, encoding in _MARKS if start.startswith(mark)), "utf-8")
