"""What people see of a command: notes, warnings and progress on stderr, results on stdout."""

from dalle_cli.console.progress import ProgressLine, duration_text
from dalle_cli.console.terminal import Terminal

__all__ = ["ProgressLine", "Terminal", "duration_text"]
