"""Parsing caption files to lists of clean captions.

A caption file holds one caption per line, or is a JSON object with captions among its keys.
Control and text-direction characters never get through: they would teach the tokenizer noise, and
in a terminal they can hide or forge what a user reads.
"""

import json
from collections.abc import Callable, Iterable

from dalle_cli.data.images import BadSample
from dalle_cli.data.sources.columns import Columns, captions_in
from dalle_cli.data.text.encodings import NOT_UTF8, decode_text
from dalle_cli.errors import CONTROL, SURROGATE

NO_CAPTION = "picture without caption"
EMPTY_CAPTION = "empty caption"


def parse_captions(text: bytes) -> list[str]:
    """Parse the content of a caption file of lines.

    Raises `BadSample` if there is no caption, or the text is in an unknown encoding.
    """
    try:
        captions = clean_captions(decode_text(text).replace("\r", "\n").split("\n"))
    except UnicodeDecodeError:
        raise BadSample(NOT_UTF8) from None
    if not captions:
        raise BadSample(EMPTY_CAPTION)
    return captions


def parse_json_captions(text: bytes, columns: Columns) -> list[str]:
    """Parse the content of a caption file of JSON, as img2dataset writes it.

    Raises `BadSample` if there is no caption, or it is not a JSON object.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise BadSample("caption file is not JSON") from None
    if not isinstance(content, dict):
        raise BadSample("caption file is not a JSON object")

    captions = clean_captions(captions_in(content, columns.find_captions(content)))
    if not captions:
        raise BadSample(f"no `{columns.caption or 'caption'}` in its .json")
    return captions


def captions_or_fault(parse: Callable[[], list[str]], *, required: bool) -> tuple[list[str], str]:
    """Return the captions of a sample, and "" or why it has none.

    If captions are required, raises that as `BadSample` instead.
    """
    try:
        return parse(), ""
    except BadSample as fault:
        if required:
            raise
        return [], fault.reason


def clean_captions(captions: Iterable[str]) -> list[str]:
    """Remove control characters and outer white space, and drop captions that are then blank.

    Line breaks inside a caption become spaces. Raises `BadSample` for invalid Unicode (lone
    surrogates).
    """
    cleaned = [CONTROL.sub("", " ".join(caption.splitlines())).strip() for caption in captions]
    if any(SURROGATE.search(caption) for caption in cleaned):
        raise BadSample(NOT_UTF8)
    return [caption for caption in cleaned if caption]
