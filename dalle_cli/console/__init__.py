"""What people see of a command: notes, warnings and progress on stderr, results on stdout."""

from dalle_cli.console.progress import ProgressLine, advance_for_all
from dalle_cli.console.terminal import LossyStream, Terminal
from dalle_cli.quantities import count_text, duration_text, size_text, sparkline

__all__ = [
    "LossyStream",
    "ProgressLine",
    "Terminal",
    "advance_for_all",
    "count_text",
    "duration_text",
    "size_text",
    "sparkline",
]
