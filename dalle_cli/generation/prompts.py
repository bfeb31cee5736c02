"""Captions to generate: from the command line, from a file, or the examples of a model.

A file is plain text, or a table with a caption column.
"""

import io
import sys
from pathlib import Path

from dalle_cli.data.images import BadSample
from dalle_cli.data.sources.captions import clean_captions
from dalle_cli.data.tables import TABLE_SUFFIXES, read_table
from dalle_cli.errors import SURROGATE, DalleError, UsageError, printable
from dalle_cli.storage.model_about import read_about
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.storage.small_files import read_input, read_stream

NO_CAPTIONS = "give some in quotes, or a file of them with --prompts"


def read_captions(captions: list[str], prompts: str | None) -> list[str]:
    """Return the captions of the command line, then those of a file, or of standard input for `-`.

    Plain text has one caption per line; CSV has them in the column `caption`, JSON Lines in that
    field. Raises UsageError where there are none, where a caption is not valid text, or where one
    on the command line is empty.
    """
    if any(SURROGATE.search(caption) for caption in captions):
        raise UsageError("a caption that is not UTF-8")
    if any(not caption.strip() for caption in captions):
        hint = 'give a caption in quotes, as in: dalle generate RUN "a red circle"'
        raise UsageError("an empty caption", hint)

    found = clean_captions(captions) + ([] if prompts is None else _read(prompts))
    if not found:
        raise UsageError("no captions", NO_CAPTIONS)
    return found


def example_captions(run: Path) -> list[str]:
    """Return the example captions that a model's author gives for it.

    Raises UsageError where there are none.
    """
    if not RunDir(run).about.is_file():
        raise UsageError("no captions", NO_CAPTIONS)
    return read_about(RunDir(run)).captions


def _read(prompts: str) -> list[str]:
    name = printable(prompts)
    try:
        is_stdin = prompts == "-"
        content = read_stream(sys.stdin.buffer, name) if is_stdin else read_input(Path(prompts))
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read captions from {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read captions from {name}: it is not UTF-8 text") from error

    if not prompts.lower().endswith(TABLE_SUFFIXES):
        lines = text.replace("\r", "\n").split("\n")  # as in text files next to pictures
        return clean_captions(lines)

    try:
        rows = list(read_table(io.StringIO(text, newline=""), prompts, columns=["caption"]))
    except DalleError as error:
        raise UsageError(error.message, error.hint) from None
    return [_caption(row, f"{name}, line {line}") for line, row in rows]


def _caption(row: object, where: str) -> str:
    if not isinstance(row, dict):
        hint = 'a line of JSON looks like {"caption": "a red circle"}'
        raise UsageError(f"{where}: not a JSON object", hint)
    caption = row.get("caption")
    if not isinstance(caption, str):
        raise UsageError(f"{where}: no text as `caption`")

    try:
        cleaned = clean_captions([caption])
    except BadSample as error:
        raise UsageError(f"{where}: {error.reason}") from None
    if not cleaned:
        raise UsageError(f"{where}: an empty caption")
    return cleaned[0]
