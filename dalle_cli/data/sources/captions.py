"""Parsing caption files to lists of clean captions.

A caption file holds one caption per line, in UTF-8, or is a JSON object with captions among its
keys. Control and text-direction characters never get through: they would teach the tokenizer noise,
and in a terminal they can hide or forge what a user reads.
"""

import json
from collections.abc import Iterable

from dalle_cli.data.images import BadSample
from dalle_cli.data.sources.columns import Columns, captions_in
from dalle_cli.errors import CONTROL, SURROGATE

NO_CAPTION = "picture without caption"
JSON_SUFFIX = ".json"


def parse_captions(text: bytes, *, required: bool) -> list[str]:
    """Parse the content of a caption file of lines.

    If captions are required, raises `BadSample` if there is none or the text is not UTF-8.
    """
    try:
        captions = clean_captions(text.decode("utf-8-sig").replace("\r", "\n").split("\n"))
    except UnicodeDecodeError:
        if required:
            raise BadSample("caption is not UTF-8") from None
        return []  # the picture is usable without

    if required and not captions:
        raise BadSample("empty caption")
    return captions


def parse_json_captions(text: bytes, columns: Columns, *, required: bool) -> list[str]:
    """Parse the content of a caption file of JSON, as img2dataset writes it.

    If captions are required, raises `BadSample` if there is none or it is not a JSON object.
    """
    try:
        content = json.loads(text)
        if not isinstance(content, dict):
            raise BadSample("caption file is not a JSON object")
        captions = clean_captions(captions_in(content, columns.find_captions(content)))
    except (ValueError, RecursionError, BadSample) as error:
        if required:
            reason = error.reason if isinstance(error, BadSample) else "caption file is not JSON"
            raise BadSample(reason) from None
        return []  # the picture is usable without

    if required and not captions:
        raise BadSample(f"no `{columns.caption or 'caption'}` in its .json")
    return captions


def clean_captions(captions: Iterable[str]) -> list[str]:
    """Remove control characters and outer white space, and drop captions that are then blank.

    Line breaks inside a caption become spaces. Raises `BadSample` for invalid Unicode (lone
    surrogates).
    """
    cleaned = [CONTROL.sub("", " ".join(caption.splitlines())).strip() for caption in captions]
    if any(SURROGATE.search(caption) for caption in cleaned):
        raise BadSample("caption is not UTF-8")
    return [caption for caption in cleaned if caption]
