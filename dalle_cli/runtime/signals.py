"""Requests to stop: which signals they are, hearing them at once, and forwarding them to children.

A signal's handler runs only when Python code does: while a library computes, or waits for another
process, it has to wait too. Threads need not. Imports no torch.
"""

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from dalle_cli.runtime.ranks import ranks_of_environment

# Ctrl-C, `kill`, a closed terminal, and what job schedulers send before the time is up; not every
# system has them all
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
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


def interrupt_after_imports(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, as soon as no module is being imported any more.

    Many an import fails in some other way when it is interrupted.
    """
    while frame is not None:
        if frame.f_code.co_name == LOADING:
            again = threading.Timer(0.02, signal.raise_signal, [number])
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


class StopRequested(BaseException):
    """A request to stop has ended a wait; no `except Exception` on the way holds it up."""

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
def stopped_at_once() -> Iterator[None]:
    """End the process at a request to stop, with a line, inside a `with`: nothing is lost then.

    A `SignalListener` inside it takes over.
    """
    with SignalListener(_stop_at_once):
        yield


def _stop_at_once(number: int) -> None:
    if ranks_of_environment().is_main:
        write_line(f"stopped by {signal.Signals(number).name}")
    os._exit(128 + number)


def write_line(text: str) -> None:
    """Write a line to stderr from any thread, over a bar if there is one, if it can be written."""
    with suppress(OSError):
        os.write(2, (CLEAR_LINE if os.isatty(2) else b"") + f"{text}\n".encode())


@contextmanager
def stop_signals_forwarded(
    children: list[subprocess.Popen], *, same_group: bool = False
) -> Iterator[None]:
    """Forward requests to stop to child processes, for the duration of a `with`.

    same_group  whether the children are in the process group of this process, where Ctrl-C reaches
                them without being forwarded
    """

    def forward(number: int, _: object) -> None:
        if same_group and number == signal.SIGINT:
            return
        for child in children:
            child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
