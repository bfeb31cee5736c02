"""The curves of a run as its tracker has them: each figure once, however often it is resumed.

`logged.json` in the run's folder says up to which step each tracker has figures. A run that was
killed is resumed from a checkpoint before that step. A tracker that can is rewound to it; of the
others, what they have already is not sent again. What a tracker lacks, because the run was not
logged from its beginning, is taken from the run's own figures. Knows no tracker by name.
"""

import json
import math
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from dalle_cli.console import Terminal
from dalle_cli.errors import printable
from dalle_cli.storage.atomic import write_file
from dalle_cli.storage.metrics_file import STEP, read_reports
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.storage.small_files import load_json
from dalle_cli.training.trackers.choice import TRACKERS, open_tracker
from dalle_cli.training.trackers.tracker import PREVIEW, TrackedRun, Tracker

NOTHING = -1  # the step of a tracker that has none


@dataclass(frozen=True)
class Logged:
    """What a tracker has of a run: everything before a step, and some names of that step.

    id  by which the tracker knows the run
    """

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    step: int = NOTHING
    names: frozenset[str] = frozenset()

    @classmethod
    def read(cls, folder: RunDir, tracker: str) -> "Logged":
        """Read what a tracker has; nothing where the file is missing or holds something else."""
        try:
            found = load_json(folder.logged)[tracker]
            return cls(str(found["id"]), int(found["step"]), frozenset(map(str, found["names"])))
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return cls()

    def write(self, folder: RunDir, tracker: str) -> None:
        """Record what a tracker has, beside what others have."""
        try:
            others = dict(load_json(folder.logged))
        except (OSError, ValueError, TypeError):
            others = {}
        entry = {"id": self.id, "step": self.step, "names": sorted(self.names)}
        write_file(folder.logged, json.dumps({**others, tracker: entry}) + "\n")

    def lacks(self, step: int, name: str) -> bool:
        """Return whether the tracker does not have a figure yet."""
        return step > self.step or (step == self.step and name not in self.names)

    def including(self, step: int, names: Mapping[str, object]) -> "Logged":
        """Return what the tracker has once it has more names of a step."""
        before = self.names if step == self.step else frozenset()
        return replace(self, step=step, names=before.union(names))


class Curves:
    """Sends what is new of a run to its tracker, if it has one.

    A tracker that fails is warned of once, and is sent nothing more: training goes on.
    """

    def __init__(
        self,
        tracker: Tracker | None,
        name: str = "",
        *,
        folder: RunDir,
        logged: Logged,
        warn: Callable[[str], None],
    ) -> None:
        """Prepare to send what a tracker of a name does not have; without one, nothing is sent."""
        self._tracker = tracker
        self._name = name
        self._folder = folder
        self._logged = logged
        self._warn = warn

    def report(self, step: int, figures: Mapping[str, float]) -> None:
        """Send the figures of a step; those that are not finite are left out, as in our file."""
        new = {
            name: value
            for name, value in figures.items()
            if math.isfinite(value) and self._logged.lacks(step, name)
        }
        if new:
            self._send(step, new, lambda tracker: tracker.log_figures(step, new))

    def preview(self, step: int, picture: Image.Image) -> None:
        """Send the preview of a step."""
        if self._logged.lacks(step, PREVIEW):
            shown = {PREVIEW: picture}
            self._send(step, shown, lambda tracker: tracker.log_preview(step, picture))

    def close(self) -> None:
        """Wait until the tracker has everything."""
        if self._tracker is not None:
            self._try(lambda tracker: tracker.close(), self._tracker)

    def _send(
        self, step: int, names: Mapping[str, object], send: Callable[[Tracker], None]
    ) -> None:
        if self._tracker is None:
            return
        self._try(send, self._tracker)
        if self._tracker is not None:
            self._logged = self._logged.including(step, names)
            self._logged.write(self._folder, self._name)

    def _try(self, act: Callable[[Tracker], None], tracker: Tracker) -> None:
        try:
            act(tracker)
        except Exception as error:  # of whatever kind its package raises
            self._tracker = None
            self._warn(f"nothing more is sent to {self._name}: {printable(str(error))}")


@contextmanager
def open_curves(
    name: str | None,
    folder: RunDir,
    step: int,
    *,
    recipe: Mapping[str, Any],
    terminal: Terminal,
) -> Iterator[Curves]:
    """Yield the curves of a run that begins, or is resumed, after a step.

    name  of the tracker; None for a run without, and in processes other than the main one

    Raises DalleError where the tracker can't be used.
    """
    if name is None:
        yield Curves(None, folder=folder, logged=Logged(), warn=terminal.warn)
        return

    logged = Logged.read(folder, name)
    rewind_to = None if logged.step == NOTHING else min(step, logged.step)
    run = TrackedRun(folder.root, logged.id, recipe, rewind_to, terminal.is_quiet)
    tracker = open_tracker(name, run)
    if TRACKERS[name].can_rewind and step < logged.step:
        logged = Logged(logged.id, step + 1)  # it has all before the next step, and nothing of that

    curves = Curves(tracker, name, folder=folder, logged=logged, warn=terminal.warn)
    try:
        for report in read_reports(folder.metrics):
            if report[STEP] <= step:
                done = int(report.pop(STEP))
                curves.report(done, report)
        yield curves
    finally:
        curves.close()
