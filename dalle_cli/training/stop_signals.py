"""Ctrl-C and other requests to stop training: finish the update, save, and exit with a code of
their own.

A request is answered at once, even while torch computes and no Python code runs: a thread listens.
It ends a wait for data, of which this thread warns when it gets long.
"""

import os
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from dalle_cli.console import duration_text
from dalle_cli.errors import DalleError
from dalle_cli.runtime.processes.ranks import ranks_of_environment
from dalle_cli.runtime.signals import SAME_REQUEST, SignalListener, StopRequested, write_line

LONG_WAIT = 60.0  # seconds for a batch, of which is warned; the next time after twice as many
LOOK_EVERY = 5.0  # seconds between two looks at how long a wait has taken


class Interrupted(DalleError):
    """Training was asked to stop, and has saved."""

    def __init__(self, signal_number: int, step: int, run: Path) -> None:
        name = signal.Signals(signal_number).name
        hint = f"`dalle resume {shlex.quote(str(run))}` resumes the run"
        done = f"after step {step}; saved" if step else "before the first step"
        message = f"stopped by {name} {done}"
        super().__init__(message, hint, exit_code=128 + signal_number)


class StopSignals:
    """Inside a `with`, records a request to stop in place of ending the process.

    A second request ends it at once.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._rank = ranks_of_environment().rank
        self._requested_at = 0.0
        self._waiting_since: float | None = None
        self._has_ended_wait = False
        self._long_wait = LONG_WAIT
        self._step_began = time.monotonic()
        self._step_seconds: float | None = None

    def __enter__(self) -> "StopSignals":
        self._listener = SignalListener(
            self._hear, handler=self._remember, idle=self._watch, idle_every=LOOK_EVERY
        )
        self._listener.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.__exit__()

    def step_begins(self) -> None:
        """Note that an update begins, to estimate how long one takes."""
        self._step_began = time.monotonic()

    def step_ends(self) -> None:
        """Note that the update is done; what follows until the next is no part of it."""
        self._step_seconds = time.monotonic() - self._step_began

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait for data inside a `with`, which a request to stop ends by StopRequested.

        A request that came before it ends it at once.
        """
        try:
            self._waiting_since = time.monotonic()
            if self.requested is not None:
                raise StopRequested(self.requested)
            yield
        finally:
            self._waiting_since = None

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.requested is None:
            self.requested = number
        if self._waiting_since is not None:
            self._waiting_since, self._has_ended_wait = None, True
            raise StopRequested(self.requested)

    def _hear(self, number: int) -> None:
        """Answer the first request; end the process at the second."""
        now = time.monotonic()
        if not self._requested_at:
            self._requested_at = now
            self.requested = number
            self._answer(now)
        elif now - self._requested_at > SAME_REQUEST:
            os._exit(128 + number)

    def _answer(self, now: float) -> None:
        if self._rank:
            return
        if self._has_ended_wait or self._waiting_since is not None:
            write_line("saving; press Ctrl-C again to stop at once")
            return
        left = (self._step_seconds or 0.0) - (now - self._step_began)
        how_long = f" (about {duration_text(left)})" if left >= 1 else ""
        write_line(
            f"finishing this step{how_long}, then saving; press Ctrl-C again to stop at once"
        )

    def _watch(self) -> None:
        """Warn of a wait that has got long."""
        since = self._waiting_since
        if since is not None and time.monotonic() - since > self._long_wait:
            whose = f"process {self._rank}: " if self._rank else ""
            text = f"no data for {duration_text(self._long_wait)}: a disk or a data worker hangs"
            write_line(f"{whose}warning: {text}; Ctrl-C saves and stops")
            self._long_wait *= 2
