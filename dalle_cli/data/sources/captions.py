"""Caption files become lists of clean captions; untrusted text becomes printable.

A caption file holds one caption per line, in UTF-8. Control and text-direction characters never get through: they
would teach the tokenizer noise, and in a terminal they can hide or forge what a user reads.
"""

import re
from collections.abc import Iterable

from dalle_cli.data.images import BadSample

NO_CAPTION = "picture without caption"

# C0 except tab, DEL, C1, and the marks, embeddings, overrides and isolates of text direction
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_captions(text: bytes, required: bool) -> list[str]:
    """Read the captions of a caption file; raise `BadSample` if it is not UTF-8, or has none though required."""
    try:
        lines = text.decode("utf-8-sig").replace("\r", "\n").split("\n")
    except UnicodeDecodeError:
        raise BadSample("caption is not UTF-8") from None
    captions = clean_captions(lines)
    if required and not captions:
        raise BadSample("empty caption")
    return captions


def clean_captions(captions: Iterable[str]) -> list[str]:
    """Strip control characters and outer white space, and drop what is then blank.

    Line breaks inside a caption become spaces. Raises `BadSample` for text that is no Unicode (lone surrogates).
    """
    cleaned = [_CONTROL.sub("", " ".join(caption.splitlines())).strip() for caption in captions]
    if any(_SURROGATE.search(caption) for caption in cleaned):
        raise BadSample("caption is not UTF-8")
    return [caption for caption in cleaned if caption]


def printable(text: str) -> str:
    """Replace what must not reach a terminal: control and text-direction characters, and what cannot be encoded."""
    return _SURROGATE.sub("\ufffd", _CONTROL.sub("\ufffd", text))
