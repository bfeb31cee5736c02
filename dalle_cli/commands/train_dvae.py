"""`dalle train-dvae`: pictures to a discrete VAE."""

from functools import partial

import torch

from dalle_cli.config import DVAERecipe
from dalle_cli.console import Terminal
from dalle_cli.data.preprocessing import DVAEPreprocessing
from dalle_cli.loading import build_dvae
from dalle_cli.runtime.devices import choose_device
from dalle_cli.runtime.distributed import init_process_group
from dalle_cli.runtime.precision import apply_precision
from dalle_cli.training.optimization.loss_scaling import scale_loss
from dalle_cli.training.run import TrainingRun, TrainOptions, open_run
from dalle_cli.training.tasks.codebook_health import CollapseMonitor
from dalle_cli.training.tasks.dvae import DiscreteVAETask


def train_dvae(recipe: DVAERecipe, options: TrainOptions, terminal: Terminal) -> None:
    """Begin or resume the run; raises DalleError for what a user can cause."""
    with init_process_group(choose_device(options.device)) as world:
        _train(open_run(recipe, options, terminal, False, world), recipe, options, terminal)


def _train(
    session: TrainingRun, recipe: DVAERecipe, options: TrainOptions, terminal: Terminal
) -> None:
    with torch.device("meta"):
        session.describe(build_dvae(recipe.model))
    if options.dry_run:
        terminal.result(
            f"nothing written to {options.run}", {"run": str(options.run), "dry_run": True}
        )
        return
    torch.manual_seed(recipe.training.seed)  # the initial weights
    dvae = build_dvae(recipe.model).to(memory_format=torch.channels_last)
    apply_precision(dvae, session.precision, session.world.device)
    session.record()
    task_on = partial(DiscreteVAETask, loss=recipe.loss, seed=recipe.training.seed)
    config = {"kind": "dvae", "model": recipe.model.model_dump()}
    scales = scale_loss(dvae, session.world.device) if session.precision == "fp16" else None
    watch = CollapseMonitor(recipe.model.vocab_size, recipe.training.steps, terminal.warn)
    session.train(dvae, task_on, DVAEPreprocessing(recipe.model.image_size), config, scales, watch)
    terminal.say(
        f"next: dalle train-transformer RECIPE --data {options.data} --dvae {options.run} --run DIR"
    )
    terminal.result(str(options.run), {"run": str(options.run)})
