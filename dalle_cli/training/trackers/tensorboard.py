"""TensorBoard: event files in the run's folder, through torch's writer."""

from collections.abc import Mapping

import numpy as np
from PIL import Image

from dalle_cli.training.trackers.tracker import PREVIEW, TrackedRun

EVENTS = "tensorboard"  # folder in that of the run


class TensorBoardTracker:
    """Writes event files, and every event at once: a killed run has lost none."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purged = None if run.rewind_to is None else run.rewind_to + 1  # and all later steps
        self._writer = SummaryWriter(str(run.root / EVENTS), purge_step=purged)

    def log_figures(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def log_preview(self, step: int, picture: Image.Image) -> None:
        pixels = np.asarray(picture.convert("RGB"))  # [H, W, 3]
        self._writer.add_image(PREVIEW, pixels, step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
