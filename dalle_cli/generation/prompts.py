"""Captions to draw, from the command line and from a file: text, or a table with other columns beside them."""

import io
import sys
from pathlib import Path

from dalle_cli.data.images import BadSample
from dalle_cli.data.sources.captions import clean_captions
from dalle_cli.data.tables import TABLE_SUFFIXES, read_table
from dalle_cli.errors import DalleError, UsageError
from dalle_cli.untrusted import SURROGATE, printable


def read_captions(captions: list[str], prompts: str | None) -> list[str]:
    """Gather captions from the command line and from a file, or `-` for the standard input.

    Text has one a line; CSV has them in the column `caption`, JSON Lines in the field. Raises UsageError where there is
    none, one is no text, or an empty one is asked for by name.
    """
    if any(SURROGATE.search(caption) for caption in captions):
        raise UsageError("a caption that is not UTF-8")
    if any(not caption.strip() for caption in captions):
        raise UsageError(
            "an empty caption", 'give a caption in quotes, as in: dalle generate RUN "a red circle"'
        )
    found = clean_captions(captions) + ([] if prompts is None else _read(prompts))
    if not found:
        raise UsageError("no captions", "give some in quotes, or a file of them with --prompts")
    return found


def _read(prompts: str) -> list[str]:
    name = printable(prompts)
    try:
        content = sys.stdin.buffer.read() if prompts == "-" else Path(prompts).read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read captions from {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read captions from {name}: it is not UTF-8 text") from error
    if not prompts.lower().endswith(TABLE_SUFFIXES):
        return clean_captions(
            text.replace("\r", "\n").split("\n")
        )  # as captions beside pictures are read
    try:
        rows = list(read_table(io.StringIO(text, newline=""), prompts, columns=["caption"]))
    except DalleError as error:
        raise UsageError(error.message, error.hint) from None
    return [_caption(row, f"{name}, line {line}") for line, row in rows]


def _caption(row: object, place: str) -> str:
    if not isinstance(row, dict):
        raise UsageError(
            f"{place}: not a JSON object", 'a line of JSON is as {"caption": "a red circle"}'
        )
    caption = row.get("caption")
    if not isinstance(caption, str):
        raise UsageError(f"{place}: no text as `caption`")
    try:
        cleaned = clean_captions([caption])
    except BadSample as error:
        raise UsageError(f"{place}: {error.reason}") from None
    if not cleaned:
        raise UsageError(f"{place}: an empty caption")
    return cleaned[0]
