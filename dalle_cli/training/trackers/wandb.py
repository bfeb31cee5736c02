"""Weights & Biases. It takes no figures of steps that it has passed."""

import os
from collections.abc import Mapping

from PIL import Image

from dalle_cli.training.trackers.tracker import PREVIEW, TrackedRun

PROJECT = "dalle"  # unless WANDB_PROJECT names another


class WandbTracker:
    """Sends figures to the server that `wandb login` named, or keeps them under WANDB_MODE=offline.

    The package's own variables (WANDB_ENTITY and others) hold as everywhere.
    """

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.id,
            name=run.name,
            dir=str(run.root),
            config=dict(run.recipe),
            resume="allow",
            allow_val_change=True,  # `training.steps` of a run that is made longer
            # it would otherwise stand between the progress bar and the terminal
            settings=wandb.Settings(console="off", silent=run.is_quiet),
        )

    def log_figures(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def log_preview(self, step: int, picture: Image.Image) -> None:
        self._run.log({PREVIEW: self._wandb.Image(picture)}, step=step)

    def close(self) -> None:
        self._run.finish()
