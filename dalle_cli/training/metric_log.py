"""The figures of a run: averaged between reports, one JSON line a report, and the same to whoever watches.

Tensors stay where they are until a report is due, so that recording never waits for a device.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from dalle_cli.storage.atomic import atomic_write

Metrics = dict[str, float | Tensor]


class MetricLog:
    """Collects the metrics of updates and writes them out every so many."""

    def __init__(
        self,
        path: Path | None,
        report_every: int,
        pace: Callable[[float], dict[str, float]],
        watch: Callable[[int, dict[str, float]], None],
    ) -> None:
        """Write to a file; without a path, only `watch` hears of anything.

        pace   makes figures of the number of updates a second
        watch  hears of every report, as the number of updates done and the figures
        """
        self._path = path
        self._report_every = report_every
        self._pace = pace
        self._watch = watch
        self._pending: list[Metrics] = []
        self._n_restored = 0  # of these, how many were not timed here
        self._started = time.perf_counter()

    def record(self, done: int, metrics: Metrics) -> None:
        """Take an update's metrics; `done` counts it."""
        self._pending.append(metrics)
        if done % self._report_every == 0:
            self.report(done)

    def state(self) -> list[dict[str, float]]:
        """Give what has been recorded since the last report, so that a resumed run's next report is the same."""
        return [
            {name: float(value) for name, value in metrics.items()} for metrics in self._pending
        ]

    def restore(self, state: list[dict[str, float]], step: int) -> None:
        """Go on after `step` updates from a state; lines that come after them will be written again."""
        self._pending = list(state)
        self._n_restored = len(state)
        self._truncate(step)

    def report(self, done: int) -> None:
        """Write the means of what has been recorded since the last report, if anything has."""
        if not self._pending:
            return
        names = self._pending[-1].keys()
        figures = {
            name: sum(float(m[name]) for m in self._pending) / len(self._pending) for name in names
        }
        elapsed = time.perf_counter() - self._started
        figures |= self._pace((len(self._pending) - self._n_restored) / elapsed)
        self._pending, self._n_restored = [], 0
        self._started = time.perf_counter()
        self.write(done, figures)

    def _truncate(self, step: int) -> None:
        if self._path is not None and self._path.exists():
            lines = self._path.read_text().splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            with atomic_write(self._path) as beside:
                beside.write_text("".join(f"{line}\n" for line in kept))

    def write(self, done: int, figures: dict[str, float]) -> None:
        """Write one line and show it; what is in nats stands there in bits as well."""
        in_bits = {
            name.replace("nats_", "bits_"): value / math.log(2)
            for name, value in figures.items()
            if "/nats_" in name
        }
        figures = figures | in_bits
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                known = {
                    name: value if math.isfinite(value) else None for name, value in figures.items()
                }
                file.write(json.dumps({"step": done, **known}) + "\n")
        self._watch(done, figures)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what happens inside the `with` out of the throughput."""
        before = time.perf_counter()
        try:
            yield
        finally:
            self._started += time.perf_counter() - before


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 2**63  # a line cut short by a crash
