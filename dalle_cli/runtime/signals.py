"""Requests to stop: which signals they are, how they end a command, and how children get them.

A signal's handler runs only when Python code does: while a library computes, or waits for another
process, it has to wait too. Threads need not. Imports no torch.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from dalle_cli.runtime.processes.ranks import ranks_of_environment

# Ctrl-C, `kill`, a closed terminal, and what job schedulers send before the time is up; not every
# system has them all
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
SAME_REQUEST = 0.5  # seconds in which a signal that arrives by two ways counts once
IMPORT_PAUSE = 0.02  # seconds between two looks at whether a module is still being imported
END = 0  # no signal has this number
LOADING = "_find_and_load"  # what Python calls to import a module that is not there yet
CLEAR_LINE = b"\r\x1b[2K"  # the bar, which is drawn again below
STOP_SIGNALS = tuple(
    getattr(signal.Signals, name) for name in NAMES if hasattr(signal.Signals, name)
)


def stop_signals() -> list[signal.Signals]:
    """Return the signals that ask this process to stop; under `nohup`, SIGHUP is none of them."""
    return [
        number
        for number in STOP_SIGNALS
        if number.name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN
    ]


class StopRequested(BaseException):
    """A request to stop has ended a command, or a wait; no `except Exception` holds it up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class SignalListener:
    """Inside a `with`, a thread hears requests to stop, which don't end the process any more."""

    def __init__(
        self,
        heard: Callable[[int], None],
        *,
        handler: Callable[[int, FrameType | None], None] = lambda number, frame: None,
        idle: Callable[[], None] = lambda: None,
        idle_every: float = 60.0,
    ) -> None:
        """Call `heard` in the thread with the number of each signal, and `handler` as Python does.

        idle        is called in the thread now and then
        idle_every  seconds without a signal
        """
        self._heard = heard
        self._handler = handler
        self._idle = idle
        self._idle_every = idle_every
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "SignalListener":
        self._receiver, self._sender = socket.socketpair()
        self._receiver.settimeout(self._idle_every)
        self._sender.setblocking(False)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

        self._wakeup_before = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        for number in stop_signals():
            self._before[number] = signal.signal(number, self._handler)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)

        self._sender.send(bytes([END]))
        self._thread.join()
        self._sender.close()
        self._receiver.close()

    def _listen(self) -> None:
        """Hear the signals that arrive, each as a byte, until the `with` ends."""
        while (number := self._receive()) != END:
            if number in self._before:
                self._heard(number)

    def _receive(self) -> int:
        while True:
            with suppress(TimeoutError):
                return self._receiver.recv(1)[0]
            self._idle()


@contextmanager
def stop_requests_raised() -> Iterator[None]:
    """Raise StopRequested in the main thread at a request to stop, inside a `with`.

    What was begun is cleaned up on the way. A second request ends the process at once, even while
    a library computes. A `SignalListener` inside it takes over.
    """
    requests = _RaisedRequests()
    with SignalListener(requests.hear, handler=requests.raise_after_imports):
        yield


class _RaisedRequests:
    """The requests to stop of a process, the first of which is raised."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._first_at: float | None = None
        self._n_postponed = 0
        self._is_raised = False

    def hear(self, number: int) -> None:
        """Note the first request, and end the process at the second."""
        now = time.monotonic()
        if self._n_postponed:  # sent by this process itself
            self._n_postponed -= 1
        elif self._first_at is None:
            self._first_at = now
        elif now - self._first_at > SAME_REQUEST:
            os._exit(128 + number)

    def raise_after_imports(self, number: int, frame: FrameType | None) -> None:
        """Raise StopRequested, as soon as no module is being imported any more.

        Many an import fails in some other way when it is interrupted.
        """
        if os.getpid() != self._process:  # a worker, before it has handlers of its own
            os._exit(128 + number)
        while frame is not None:
            if frame.f_code.co_name == LOADING:
                again = threading.Timer(IMPORT_PAUSE, self._signal_again, [number])
                again.daemon = True
                again.start()
                return
            frame = frame.f_back
        if not self._is_raised:  # another one would end the cleaning up
            self._is_raised = True
            raise StopRequested(number)

    def _signal_again(self, number: int) -> None:
        self._n_postponed += 1
        main_thread = threading.main_thread().ident
        if sys.platform == "win32" or main_thread is None:
            signal.raise_signal(number)
        else:  # a signal of this thread would not end what the main thread waits for
            signal.pthread_kill(main_thread, number)


@contextmanager
def stopped_at_once() -> Iterator[None]:
    """End the process at a request to stop, with a line, inside a `with`: nothing is lost then.

    A `SignalListener` inside it takes over.
    """
    with SignalListener(_stop_at_once):
        yield


def _stop_at_once(number: int) -> None:
    if ranks_of_environment().is_main:
        write_line(stop_line(number))
    os._exit(128 + number)


def stop_line(number: int) -> str:
    """Return what is printed where a request to stop ends a command with nothing to save."""
    return f"stopped by {signal.Signals(number).name}"


def write_line(text: str) -> None:
    """Write a line to stderr from any thread, over a bar if there is one, if it can be written."""
    with suppress(OSError):
        os.write(2, (CLEAR_LINE if os.isatty(2) else b"") + f"{text}\n".encode())


@contextmanager
def stop_signals_forwarded(
    *, same_group: bool = False
) -> Iterator[Callable[[subprocess.Popen], None]]:
    """Forward requests to stop to child processes, for the duration of a `with`.

    It yields a function to which each child is passed once it is started; a request that came
    before is forwarded then.

    same_group  whether the children are in the process group of this process, where Ctrl-C reaches
                them without being forwarded
    """
    children: list[subprocess.Popen] = []
    forwarded: list[int] = []

    def forward(number: int, _: object) -> None:
        if same_group and number == signal.SIGINT:
            return
        forwarded.append(number)
        for child in children:
            child.send_signal(number)

    def add(child: subprocess.Popen) -> None:
        children.append(child)
        for number in forwarded:
            child.send_signal(number)

    listened_to = signal.set_wakeup_fd(-1)  # a second request is for the children, too
    before = {number: signal.signal(number, forward) for number in stop_signals()}
    try:
        yield add
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(listened_to)
