"""Files written in a thread of its own, in the order asked for, while the next pictures are computed.

Knows nothing of what is written. Compressing and writing release Python's lock, so that both go on at once.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

MOST_WAITING = 256  # pictures are small beside a model, but computing may be faster than writing


class BackgroundWriter:
    """Inside a `with`, does what is asked, one thing after another; after a failure nothing more.

    The failure is raised where the next thing is asked for, where somebody waits, or at the end of the `with`. An
    exception in the `with` lets what was asked for be done first.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._asked: deque[Future] = deque(maxlen=MOST_WAITING)

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self.flush()

    def submit(self, write: Callable[..., None], *arguments: Any) -> None:
        """Have something written when all before it is; waits where too much is waiting already."""
        if len(self._asked) == MOST_WAITING:
            self._asked[0].result()
        before = self._asked[-1] if self._asked else None
        if before is not None and before.done():
            before.result()
        self._asked.append(self._thread.submit(_after, before, write, arguments))

    def flush(self) -> None:
        """Go on only when everything is written."""
        if self._asked:
            self._asked[-1].result()


def _after(before: Future | None, write: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Write, unless what came before has failed: its exception is passed on."""
    if before is not None:
        before.result()
    write(*arguments)
