"""Who is late, where several processes wait for one another: which process, on which machine.

Every process notes the points that it comes to, in the same order as the others. Every few seconds,
a thread publishes the number of the last point in the store through which the processes met. Once
that point is long ago, processes that have not come as far are late, and one of those that wait
names them. A process that has finished is never late.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from torch.distributed import Store

from dalle_cli.quantities import duration_text
from dalle_cli.runtime.processes.ranks import LOST_ANOTHER, Ranks
from dalle_cli.runtime.signals import write_line

LOOK_EVERY = 5.0  # seconds between two looks at how long a wait has taken
LONG_WAIT = 60.0  # seconds, of which is warned; the next time after twice as many
LIMIT = 3300.0  # seconds after which the processes that wait end, before torch gives up
MOST_NAMED = 3  # late processes in a message

DONE = sys.maxsize  # the point of a process that has no more to do with the others
HOST, POINT = "dalle/host/{}", "dalle/point/{}"  # keys of a rank in the store


class _Point(NamedTuple):
    """A point of the work: how many there were, its name, and when this process came to it."""

    number: int
    name: str
    since: float


class Watchdog:
    """The points that a process comes to, and a thread that names those that are late."""

    def __init__(self) -> None:
        self._point = _Point(0, "the start", time.monotonic())

    def reach(self, name: str = "") -> None:
        """Note that this process has come to a point of its work, which by default has the name of
        the one before.
        """
        self._point = _Point(self._point.number + 1, name or self._point.name, time.monotonic())

    @contextmanager
    def watching(self, ranks: Ranks, store: Store) -> Iterator[None]:
        """Warn of processes that are late, and at last end this one, for the duration of a `with`.

        store  through which the processes met
        """
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=[ranks, store, over], daemon=True)
        thread.start()
        try:
            yield
            self._point = _Point(DONE, "the end", time.monotonic())
        finally:
            over.set()
            thread.join(LOOK_EVERY)

    def _watch(self, ranks: Ranks, store: Store, over: threading.Event) -> None:
        key, published, patience = POINT.format(ranks.rank), -1, LONG_WAIT
        with suppress(RuntimeError):  # the store was that of a process which has gone
            # no other thread waits for an answer of this one; torch's stubs lack it
            connection = store.clone()  # type: ignore[attr-defined]
            while not over.wait(LOOK_EVERY):
                point = self._point
                if point.number != published:
                    connection.set(key, str(point.number))
                    published, patience = point.number, LONG_WAIT
                waited = time.monotonic() - point.since
                if waited > min(patience, LIMIT):
                    patience *= 2
                    _tell(ranks, connection, point, waited=waited)

            if self._point.number == DONE:
                connection.set(key, str(DONE))  # nobody is to wait for this process


def _tell(ranks: Ranks, store: Store, point: _Point, *, waited: float) -> None:
    """Print who has not come to a point; past the limit, end the process."""
    reached = [int(_read(store, POINT.format(rank), "-1")) for rank in range(ranks.size)]
    late = [rank for rank, number in enumerate(reached) if number < point.number]
    if not late or max(reached) > point.number:  # it is late itself, or others are done
        return

    is_over = waited > LIMIT
    if reached.index(point.number) == ranks.rank:
        have = "has" if len(late) == 1 else "have"
        line = (
            f"{'error' if is_over else 'warning'}: {name_ranks(late, ranks, store)} {have} not "
            f"come to {point.name}, where others have waited for {duration_text(waited)}"
        )
        write_line(line)
        if is_over:
            write_line("hint: what holds it up? The same command resumes")
    elif is_over:
        time.sleep(LOOK_EVERY)  # for the one that tells it
    if is_over:
        os._exit(LOST_ANOTHER)


def publish_host(store: Store, ranks: Ranks) -> None:
    """Publish which machine this process is on; until then it counts as absent."""
    store.set(HOST.format(ranks.rank), socket.gethostname())


def absent_ranks(store: Store | None, ranks: Ranks) -> list[int]:
    """List the processes that have not yet come to the meeting, as far as this one knows.

    store  that of the main process; None where that one has not come
    """
    if store is None:
        return [] if ranks.is_main else [0]
    with suppress(RuntimeError):  # the main process has gone
        return [rank for rank in range(ranks.size) if not store.check([HOST.format(rank)])]
    return []


def name_ranks(named: list[int], ranks: Ranks, store: Store | None = None) -> str:
    """Name processes, in the words of a message, and the machines that the store knows of them."""
    names = []
    for rank in named[:MOST_NAMED]:
        host = "" if store is None else _read(store, HOST.format(rank), "")
        names.append(f"{rank} ({host})" if host else str(rank))
    if len(named) > MOST_NAMED:
        names.append(f"{len(named) - MOST_NAMED} more")
    *before, last = names
    listed = f"{', '.join(before)} and {last}" if before else last
    return f"process{'es' if len(named) > 1 else ''} {listed} of {ranks.size}"


def _read(store: Store, key: str, default: str) -> str:
    return store.get(key).decode() if store.check([key]) else default
