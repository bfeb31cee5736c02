"""Ctrl-C and other requests to stop training: finish the update, save, and exit with a code of
their own.

A request is answered at once, even while torch computes and no Python code runs: a thread listens.
"""

import os
import shlex
import signal
import socket
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from dalle_cli.console import duration_text
from dalle_cli.errors import DalleError
from dalle_cli.runtime.ranks import ranks_of_environment
from dalle_cli.runtime.signals import stop_signals

SAME_REQUEST = 0.5  # seconds in which a signal that arrives by two ways counts once
END = 0  # no signal has this number
CLEAR_LINE = b"\r\x1b[2K"  # the bar, which is drawn again below


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
        self._is_main = ranks_of_environment().is_main
        self._requested_at = 0.0
        self._step_began = time.monotonic()
        self._step_seconds: float | None = None

    def __enter__(self) -> "StopSignals":
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

        self._wakeup_before = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        for number in stop_signals():
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)

        self._sender.send(bytes([END]))
        self._listener.join()
        self._sender.close()
        self._receiver.close()

    def step_begins(self) -> None:
        """Note that an update begins, to estimate how long one takes."""
        self._step_began = time.monotonic()

    def step_ends(self) -> None:
        """Note that the update is done; what follows until the next is no part of it."""
        self._step_seconds = time.monotonic() - self._step_began

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.requested is None:
            self.requested = number

    def _listen(self) -> None:
        """Answer the signals that arrive, each as a byte, until the `with` ends."""
        while (number := self._receiver.recv(1)[0]) != END:
            if number not in self._before:
                continue
            now = time.monotonic()
            if not self._requested_at:
                self._requested_at = now
                self.requested = number
                self._answer(now)
            elif now - self._requested_at > SAME_REQUEST:
                os._exit(128 + number)

    def _answer(self, now: float) -> None:
        if not self._is_main:
            return
        left = (self._step_seconds or 0.0) - (now - self._step_began)
        how_long = f" (about {duration_text(left)})" if left >= 1 else ""
        notice = f"finishing this step{how_long}, then saving; press Ctrl-C again to stop at once\n"
        os.write(2, (CLEAR_LINE if os.isatty(2) else b"") + notice.encode())
