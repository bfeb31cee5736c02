"""Which trackers there are, by the names that `--log` takes, and whether one can be used here.

Nothing is imported of a tracker's package until the tracker is made.
"""

from collections.abc import Callable
from dataclasses import dataclass

from dalle_cli.errors import DalleError, UsageError, printable
from dalle_cli.runtime.packages import is_installed
from dalle_cli.training.trackers.tensorboard import TensorBoardTracker
from dalle_cli.training.trackers.tracker import TrackedRun, Tracker
from dalle_cli.training.trackers.trackio import TrackioTracker
from dalle_cli.training.trackers.wandb import WandbTracker


@dataclass(frozen=True)
class TrackerKind:
    """A tracker that there is.

    make        raises whatever its package raises
    can_rewind  whether it drops the steps after the one that a run is resumed from
    """

    make: Callable[[TrackedRun], Tracker]
    can_rewind: bool = False


TRACKERS = {  # by the name of the tracker and of its package
    "tensorboard": TrackerKind(TensorBoardTracker, can_rewind=True),
    "wandb": TrackerKind(WandbTracker),
    "trackio": TrackerKind(TrackioTracker),
}


def check_tracker(name: str) -> None:
    """Raise UsageError for a name of no tracker, and DalleError if its package is missing."""
    if name not in TRACKERS:
        raise UsageError(f"no such tracker: {printable(name)}", f"there are {', '.join(TRACKERS)}")
    if not is_installed(name):
        raise DalleError(
            f"`--log {name}` needs the package {name}", f"`pip install {name}`, or leave it out"
        )


def open_tracker(name: str, run: TrackedRun) -> Tracker:
    """Open a tracker; raises DalleError where it can't be used, for whatever reason it has."""
    check_tracker(name)
    try:
        return TRACKERS[name].make(run)
    except Exception as error:  # of whatever kind its package raises
        message = f"`--log {name}` does not work here: {printable(str(error))}"
        raise DalleError(message, "leave it out to train without") from error
