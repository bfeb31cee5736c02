"""What sends figures and previews to a tracker needs to know of it, and it of the run.

Nothing here imports the package of a tracker.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

PREVIEW = "preview"  # the name under which previews are shown


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run.

    root         the run's folder, in which the tracker may keep files of its own
    id           of this run alone, the same each time that it is resumed
    recipe       as it was given
    rewind_to    the step after which a tracker that can do so drops what it has; None for a new run
    is_quiet     whether the tracker is to print nothing
    """

    root: Path
    id: str
    recipe: Mapping[str, Any]
    rewind_to: int | None
    is_quiet: bool

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return self.root.resolve().name


class Tracker(Protocol):
    """Shows figures and previews of a run by their steps, which never decrease."""

    def log_figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Show figures of a step, beside those that it already has."""
        ...

    def log_preview(self, step: int, picture: Image.Image) -> None:
        """Show a preview of a step."""
        ...

    def close(self) -> None:
        """Wait until everything has arrived."""
        ...
