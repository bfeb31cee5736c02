"""Names with texts beside them, wrapped by word to the terminal's width."""

import shutil
import textwrap
from collections.abc import Mapping

GAP = 2  # columns between the longest name and the texts


def wrapped_rows(texts: Mapping[str, str]) -> str:
    """Lay out texts by name in two columns; where no terminal is known, it has 80 columns."""
    indent = max(map(len, texts), default=0) + GAP
    columns = shutil.get_terminal_size().columns
    rows = (
        textwrap.fill(
            f"{name:<{indent}}{text}",
            width=columns,
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for name, text in texts.items()
    )
    return "\n".join(rows)
