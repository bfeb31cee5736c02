"""Entry point of `python -m dalle_cli` and of the `dalle` command.

What comes first: streams that the shell has closed, Ctrl-C while modules are imported, and how the
interpreter ends.
"""

import os
import signal
import sys
from types import FrameType

from dalle_cli.runtime.garbage import leave_uncollected_at_exit


def open_closed_streams() -> None:
    """Open standard streams that were closed, as after `2>&-`, on nothing.

    Else the next file that is opened would be one of them, and would get what is printed.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  for the whole process


def exit_at_once(number: int, frame: FrameType | None) -> None:
    """End the process: nothing has begun yet, and many an import can't be interrupted cleanly."""
    os._exit(128 + number)


open_closed_streams()
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, exit_at_once)

leave_uncollected_at_exit()

from dalle_cli.cli.main import main  # noqa: E402  after the above

if __name__ == "__main__":
    main()
