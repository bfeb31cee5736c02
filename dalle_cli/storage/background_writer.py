"""Background thread that writes files in the order submitted, while the next pictures are computed.

Knows nothing of what is written. Compressing and writing release Python's global lock, so that they
run at the same time as the computation.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

MOST_WAITING = 256  # pictures are small next to a model, but computing may be faster than writing


class BackgroundWriter:
    """Context manager that runs submitted writes one after another, and none after a failure.

    A failure is raised by the next `submit`, by `flush`, or at the end of the `with`. If the `with`
    itself raises, the writes submitted before are finished first.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._submitted: deque[Future] = deque(maxlen=MOST_WAITING)

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self.flush()

    def submit(self, write: Callable[..., None], *arguments: Any) -> None:
        """Schedule a write after all earlier ones; block while the queue is full."""
        if len(self._submitted) == MOST_WAITING:
            self._submitted[0].result()

        previous = self._submitted[-1] if self._submitted else None
        if previous is not None and previous.done():
            previous.result()
        self._submitted.append(self._thread.submit(_write_after, previous, write, arguments))

    def flush(self) -> None:
        """Wait until everything submitted has been written."""
        if self._submitted:
            self._submitted[-1].result()


def _write_after(
    previous: Future | None, write: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    """Run a write unless the previous one failed; in that case raise its exception again."""
    if previous is not None:
        previous.result()
    write(*arguments)
