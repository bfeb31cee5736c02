"""The time that a job has taken over all its starts, kept in a file."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dalle_cli.storage.atomic import atomic_write
from dalle_cli.storage.small_files import load_json


@contextmanager
def stopwatch(file: Path) -> Iterator[Callable[[], float]]:
    """Yield a function that returns the seconds so far; they are kept however the `with` ends."""
    before, started = _read(file), time.perf_counter()

    def seconds() -> float:
        return before + time.perf_counter() - started

    try:
        yield seconds
    finally:
        with atomic_write(file) as temporary:
            temporary.write_text(json.dumps({"seconds": seconds()}) + "\n")


def _read(file: Path) -> float:
    try:
        return float(load_json(file)["seconds"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return 0.0
