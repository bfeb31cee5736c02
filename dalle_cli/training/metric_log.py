"""The metrics of a run: averaged between reports, and written as one JSON line per report.

Every report is also passed to a callback. Tensors stay on their device until a report is due, so
that recording never waits for it.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from torch import Tensor

from dalle_cli.storage.metrics_file import SECONDS, append_report, cut_reports, read_reports

Metrics = dict[str, float | Tensor]
OnReport = Callable[[int, dict[str, float]], None]  # updates done, and the figures
OnUpdate = Callable[[int], None]  # updates done
OnPreview = Callable[[int, Image.Image], None]  # updates done, and the picture


class MetricLog:
    """Collects the metrics of updates and reports their means every `report_every` updates."""

    def __init__(
        self,
        path: Path | None,
        report_every: int,
        *,
        rates: Callable[[float], dict[str, float]],
        on_report: OnReport,
        on_update: OnUpdate = lambda done: None,
        on_preview: OnPreview = lambda done, picture: None,
    ) -> None:
        """Write to a file; without a path, reports are only passed on.

        rates       computes figures from the number of updates per second
        on_report   is called with every report
        on_update   is called after every update that no report follows
        on_preview  is called with every preview
        """
        self._path = path
        self._report_every = report_every
        self._rates = rates
        self._on_report = on_report
        self._on_update = on_update
        self._on_preview = on_preview
        self._pending: list[Metrics] = []
        self._n_restored = 0  # pending metrics of an earlier process, whose time is not known
        self._started = self._opened = time.perf_counter()
        self._earlier_seconds = 0.0  # of the run's earlier starts, until their last report

    def record(self, done: int, metrics: Metrics) -> None:
        """Record the metrics of update number `done`, counted from 1, and report if that is due."""
        self._pending.append(metrics)
        if done % self._report_every == 0:
            self.report(done)
        else:
            self._on_update(done)

    def state(self) -> list[dict[str, float]]:
        """Return the metrics recorded since the last report.

        With them a resumed run's next report is the same.
        """
        return [
            {name: float(value) for name, value in metrics.items()} for metrics in self._pending
        ]

    def restore(self, state: list[dict[str, float]], step: int) -> None:
        """Go on from a state after `step` updates; later lines are cut off, to be written again."""
        self._pending = [dict(metrics) for metrics in state]
        self._n_restored = len(state)
        if self._path is not None:
            cut_reports(self._path, step)
            seconds = [report[SECONDS] for report in read_reports(self._path) if SECONDS in report]
            self._earlier_seconds = seconds[-1] if seconds else 0.0

    def report(self, done: int) -> None:
        """Write the means of the metrics recorded since the last report, if there are any."""
        if not self._pending:
            return
        n_pending = len(self._pending)
        figures = {}
        for name in self._pending[-1]:  # updates before a resumption may lack it
            values = [float(metrics[name]) for metrics in self._pending if name in metrics]
            figures[name] = sum(values) / len(values)

        now = time.perf_counter()
        figures |= self._rates((n_pending - self._n_restored) / (now - self._started))
        figures[SECONDS] = self._earlier_seconds + now - self._opened
        self._pending, self._n_restored = [], 0
        self._started = now
        self.write(done, figures)

    def write(self, done: int, figures: dict[str, float]) -> None:
        """Write one line and pass it on; figures in nats are repeated in bits."""
        in_bits = {
            name.replace("nats_", "bits_"): value / math.log(2)
            for name, value in figures.items()
            if "/nats_" in name
        }
        figures = figures | in_bits

        if self._path is not None:
            append_report(self._path, done, figures)
        self._on_report(done, figures)

    def preview(self, done: int, picture: Image.Image) -> None:
        """Pass on a preview of the model after `done` updates."""
        self._on_preview(done, picture)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time spent inside the `with` from the throughput."""
        before = time.perf_counter()
        try:
            yield
        finally:
            self._started += time.perf_counter() - before
