"""Ctrl-C and SIGTERM during training: finish the update, save, and exit with the signal's code."""

import os
import shlex
import signal
from pathlib import Path
from types import FrameType
from typing import Any

from dalle_cli.errors import DalleError

NOTICE = b"\nfinishing this step, then saving; once more stops at once\n"


class Interrupted(DalleError):
    """Training was asked to stop, and has saved."""

    def __init__(self, signal_number: int, step: int, run: Path) -> None:
        name = signal.Signals(signal_number).name
        hint = f"`dalle resume {shlex.quote(str(run))}` resumes the run"
        message = f"stopped by {name} after step {step}; saved"
        super().__init__(message, hint, exit_code=128 + signal_number)


class StopSignals:
    """Inside a `with`, records a request to stop in place of ending the process.

    A second request ends it at once.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            os._exit(128 + number)
        self.requested = number
        os.write(2, NOTICE)
