"""Divergence: losses, gradients and weights that are not finite, which end a run.

A step that is not finite is never saved, so that every checkpoint of a run is one to go on from.
fp16 is the exception: its gradient scales expect gradients to overflow now and then, and such an
update is skipped. Knows nothing of engines, nor of what a loss is made of.
"""

import math
import shlex
from collections import deque
from collections.abc import Callable
from statistics import median

from dalle_cli.errors import DalleError, printable
from dalle_cli.storage.checkpoint_folder import checkpoints
from dalle_cli.storage.run_dir import RunDir

MAX_SKIPPED = 50  # updates in a row
RECENT = 20  # losses, by which the likeliest cause is told
EARLY = 10  # losses; before that, a run diverges by its learning rate more often than by its data
RISEN = 10.0  # median deviations from the median, above which the last loss has risen
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

    def __init__(self, folder: RunDir, *, has_scales: bool, warn: Callable[[str], None]) -> None:
        """folder: of the run; has_scales: whether it trains in fp16, with gradient scales."""
        self._folder = folder
        self._has_scales = has_scales
        self._warn = warn
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._n_skipped = 0  # in a row
        self._has_warned = False

    def check_update(
        self,
        step: int,
        loss: float,
        *,
        is_applied: bool,
        is_last: bool,
        keys: Callable[[], list[str]],
    ) -> None:
        """Check update number `step`, counted from 1.

        is_last  whether the run ends with it
        keys     gathers the keys of its samples from all processes

        Raises Diverged where the loss or the gradients are not finite, or, in fp16, stay so.
        """
        is_finite = math.isfinite(loss)
        if is_applied and is_finite:
            self._recent.append(loss)
            self._n_skipped = 0
        elif is_applied or not self._has_scales or (is_last and not is_finite):
            what = "the gradients are" if is_finite else "the loss is"
            message = f"{what} not finite at step {step:,}, of the samples {_listed(keys())}"
            raise Diverged(message, self._folder, self._cause(step))
        else:
            self._skip(step)

    def _skip(self, step: int) -> None:
        """Count an update that fp16 has skipped; warn of the first."""
        self._n_skipped += 1
        if self._n_skipped == MAX_SKIPPED:
            message = f"the gradients of {MAX_SKIPPED} updates in a row were not finite"
            raise Diverged(message, self._folder, TOO_FAST)
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
        if len(self._recent) < EARLY:
            return TOO_FAST
        usual = median(self._recent)
        deviation = median(abs(loss - usual) for loss in self._recent)
        has_risen = self._recent[-1] > usual + RISEN * deviation
        return TOO_FAST if has_risen else ONE_BATCH


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
