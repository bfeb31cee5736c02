"""Trackio, which keeps figures on this machine: `trackio show` opens them in a browser."""

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout

from PIL import Image

from dalle_cli.training.trackers.tracker import PREVIEW, TrackedRun

PROJECT = "dalle"
ID_SHOWN = 8  # characters of a run's id that tell it from others whose folders have the same name


class TrackioTracker:
    """Sends figures to trackio, which knows a run by its name."""

    def __init__(self, run: TrackedRun) -> None:
        import trackio

        self._trackio = trackio
        with redirect_stdout(sys.stderr):  # stdout is for results
            self._run = trackio.init(
                project=PROJECT,
                name=f"{run.name}-{run.id[:ID_SHOWN]}",
                config=dict(run.recipe),
                resume="allow",
                embed=False,
            )

    def log_figures(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def log_preview(self, step: int, picture: Image.Image) -> None:
        self._run.log({PREVIEW: self._trackio.Image(picture)}, step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self._run.finish()
