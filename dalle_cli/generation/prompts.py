"""Captions to generate: from the command line, from a file, or the examples of a model.

A file is plain text, or a table with a caption column.
"""

import sys
from pathlib import Path

from dalle_cli.data.images import BadSample
from dalle_cli.data.sources.captions import clean_captions
from dalle_cli.data.sources.columns import Columns, captions_in
from dalle_cli.data.tables import TABLE_SUFFIXES, read_table
from dalle_cli.data.text.encodings import TO_UTF8, decode_text
from dalle_cli.errors import SURROGATE, DalleError, UsageError, printable
from dalle_cli.storage.model_about import read_about
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.storage.small_files import read_input, read_stream

NO_CAPTIONS = "give some in quotes, or a file of them with --prompts"

FORMS = "text with a caption a line, or a .csv, .tsv, .jsonl, .ndjson or .json table"
# Of formats that are not read, and are not plain text with a caption a line
OTHER_SUFFIXES = (
    *(".parquet", ".arrow", ".xlsx", ".xls", ".ods", ".docx", ".odt", ".pdf", ".gz", ".zip"),
    *(".yaml", ".yml", ".toml", ".xml", ".html", ".htm"),
)


def read_captions(captions: list[str], prompts: str | None) -> list[str]:
    """Return the captions of the command line, then those of a file, or of standard input for `-`.

    Plain text has one caption per line. Tables have them in the column `caption`, or in another of
    those that training takes; JSON may be a list of texts.

    Raises UsageError where there are none, where a caption is not valid text, where one on the
    command line is empty, or for a file of a format that is not read.
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
    if prompts.lower().endswith(OTHER_SUFFIXES):
        raise UsageError(f"captions cannot be read from {name}", f"expected {FORMS}")
    try:
        if prompts.lower().endswith(TABLE_SUFFIXES):
            return _captions_of_table(prompts)
        is_stdin = prompts == "-"
        content = read_stream(sys.stdin.buffer, name) if is_stdin else read_input(Path(prompts))
        lines = decode_text(content).replace("\r", "\n").split("\n")  # as beside pictures
    except OSError as error:
        raise UsageError(f"cannot read captions from {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        message = f"cannot read captions from {name}: it is not UTF-8 text"
        raise UsageError(message, TO_UTF8) from error
    return clean_captions(lines)


def _captions_of_table(table: str) -> list[str]:
    try:
        rows = list(read_table(table))
    except DalleError as error:
        raise UsageError(error.message, error.hint) from None

    names = dict.fromkeys(name for _, row in rows if isinstance(row, dict) for name in row)
    if names and Columns().find_caption(names) is None:
        raise UsageError(
            f"no column with captions in {printable(table)}",
            printable(f"columns found: {', '.join(names)}; call that of the captions `caption`"),
        )

    word = "row" if table.lower().endswith(".json") else "line"
    return [
        caption
        for number, row in rows
        for caption in _captions_of_row(row, f"{printable(table)}, {word} {number}")
    ]


def _captions_of_row(row: object, where: str) -> list[str]:
    if not isinstance(row, str | dict):
        hint = 'a line of JSON looks like {"caption": "a red circle"}'
        raise UsageError(f"{where}: not a JSON object", hint)

    try:
        texts = [row] if isinstance(row, str) else captions_in(row, Columns().find_captions(row))
        captions = clean_captions(texts)
    except BadSample as error:
        raise UsageError(f"{where}: {error.reason}") from None
    if not captions:
        raise UsageError(f"{where}: no caption")
    return captions
