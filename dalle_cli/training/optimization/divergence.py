"""Divergence: losses, gradients and weights that are not finite, which end a run, and leaps.

A step that is not finite is never saved, so that every checkpoint of a run is one to go on from.
fp16 is the exception: its gradient scales expect gradients to overflow now and then, and such an
update is skipped. A loss leaps, or spikes, where it is far above the last ones; what follows, the
recipe says. Knows nothing of engines, nor of what a loss is made of.
"""

import math
import shlex
from collections import deque
from collections.abc import Callable, Sequence
from statistics import median

from torch import Tensor

from dalle_cli.config import OptimizerTable
from dalle_cli.errors import DalleError, printable
from dalle_cli.storage.checkpoint_folder import checkpoints
from dalle_cli.storage.run_dir import RunDir

MAX_SKIPPED = 50  # updates in a row that no lower gradient scale would have saved
RECENT = 128  # losses, by which others are judged
FEWEST = 32  # of them; with fewer, no loss leaps, and a learning rate is the likeliest cause
LEAP = 10.0  # median deviations above the median, which are 6.7 standard deviations of a normal
SMALLEST_DEVIATION = 0.01  # of the median
KEYS_SHOWN = 8  # samples in a message

TOO_FAST = "the learning rate is too high: begin a new run with a lower `optimizer.lr`"
NOT_TRAINED = "no update came before it: look at these samples, and at the weights it started from"
ONE_BATCH = "the losses before it were as usual: look at these samples"


class Diverged(DalleError):
    """A number that is not finite has ended a run; nothing of its step is saved."""

    def __init__(self, message: str, folder: RunDir, cause: str) -> None:
        super().__init__(message, f"most likely, {cause}; {_saved_before(folder)}")


class DivergenceMonitor:
    """Checks every update and every held-out loss of a run; all processes come to the same end."""

    def __init__(
        self,
        folder: RunDir,
        table: OptimizerTable,
        *,
        has_scales: bool,
        warn: Callable[[str], None],
        losses: Sequence[float] = (),
    ) -> None:
        """Check the run in a folder, after some losses of an earlier start.

        has_scales  whether it trains in fp16, with gradient scales
        """
        self._folder = folder
        self._on_spike = table.on_spike
        self._has_scales = has_scales
        self._warn = warn
        self._recent = deque(losses, maxlen=RECENT)
        self._n_skipped = 0  # in a row
        self._has_warned = False
        self._silent_until = 0  # a step; spikes come in groups

    @property
    def losses(self) -> list[float]:
        """The last losses of updates that were applied, for a checkpoint."""
        return list(self._recent)

    def is_unwanted(self, loss: float | Tensor) -> bool:
        """Return whether the update of a loss is to be skipped."""
        return self._on_spike == "skip" and self._leaps(float(loss))

    def _leaps(self, loss: float) -> bool:
        return math.isfinite(loss) and len(self._recent) >= FEWEST and loss > self._limit()

    def _limit(self) -> float:
        """Return the loss above which one leaps.

        Median and median deviation are not moved by a few large losses among the last ones.
        """
        usual = median(self._recent)
        deviation = median(abs(loss - usual) for loss in self._recent)
        return usual + LEAP * max(deviation, SMALLEST_DEVIATION * abs(usual))

    def check_update(
        self,
        step: int,
        loss: float,
        *,
        is_applied: bool,
        is_last: bool,
        keys: Callable[[], list[str]],
        can_recover: Callable[[], bool],
    ) -> None:
        """Check update number `step`, counted from 1.

        is_last      whether the run ends with it
        keys         gathers the keys of its samples from all processes
        can_recover  tells, of a skipped update, whether lower gradient scales may end its overflow

        Raises Diverged where the loss or the gradients are not finite, or, in fp16, stay so, and
        where a leap is to end the run.
        """
        is_finite = math.isfinite(loss)
        if self._leaps(loss):
            self._spike(step, loss, keys)
        if self.is_unwanted(loss):
            self._count_skipped("their losses leapt")
        elif is_applied and is_finite:
            self._recent.append(loss)
            self._n_skipped = 0
        elif is_applied or not self._has_scales or (is_last and not is_finite):
            what = "the gradients are" if is_finite else "the loss is"
            message = f"{what} not finite at step {step:,}, of the samples {_listed(keys())}"
            raise Diverged(message, self._folder, self._cause(step))
        else:
            # scales come down by rules of their own, which may take thousands of updates
            if not is_finite or not can_recover():
                self._count_skipped("their gradients were not finite")
            self._warn_of_overflow(step)

    def _spike(self, step: int, loss: float, keys: Callable[[], list[str]]) -> None:
        """Warn of a loss that leaps, or end the run."""
        usual = median(self._recent)
        message = f"the loss leapt to {loss:.4g} at step {step:,}, where {usual:.4g} is usual"
        if self._on_spike == "stop":
            samples = _listed(keys())
            raise Diverged(f"{message}, with the samples {samples}", self._folder, TOO_FAST)
        if step >= self._silent_until:
            self._silent_until = step + RECENT
            skipped = "; the update is skipped" if self._on_spike == "skip" else ""
            self._warn(f"{message}{skipped}")

    def _count_skipped(self, why: str) -> None:
        self._n_skipped += 1
        if self._n_skipped == MAX_SKIPPED:
            message = f"{MAX_SKIPPED} updates in a row were skipped: {why}"
            raise Diverged(message, self._folder, TOO_FAST)

    def _warn_of_overflow(self, step: int) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._warn(
                f"step {step:,} was skipped: its gradients overflowed. In fp16 that is expected "
                "now and then; `train/skipped` in metrics.jsonl counts such steps"
            )

    def check_held_out(self, step: int, loss: float) -> None:
        """Raise Diverged where the held-out loss after `step` updates is not finite."""
        if not math.isfinite(loss):
            message = f"the held-out loss is not finite after step {step:,}"
            raise Diverged(message, self._folder, TOO_FAST)

    def _cause(self, step: int) -> str:
        """Return the likeliest cause, by the losses before."""
        if step == 1:
            return NOT_TRAINED
        is_early = len(self._recent) < FEWEST
        return TOO_FAST if is_early or self._recent[-1] > self._limit() else ONE_BATCH


def _listed(keys: list[str]) -> str:
    shown = ", ".join(printable(key) for key in keys[:KEYS_SHOWN])
    return shown if len(keys) <= KEYS_SHOWN else f"{shown} and {len(keys) - KEYS_SHOWN:,} more"


def _saved_before(folder: RunDir) -> str:
    """Return what a run has to go on from: its last checkpoint."""
    saved = checkpoints(folder)
    if not saved:
        return "nothing was saved before it"
    newest = saved[-1][1]
    root = shlex.quote(str(folder.root))
    return f"{newest} is sound, and `--init-from {root}` starts from its weights"
