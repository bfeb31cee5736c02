"""`dalle train-dvae`: pictures to a discrete VAE."""

from functools import partial

from dalle_cli.config import DVAERecipe
from dalle_cli.console import Terminal
from dalle_cli.data.preprocessing import DVAEPreprocessing
from dalle_cli.runtime.devices import choose_device
from dalle_cli.runtime.distributed import World, init_process_group
from dalle_cli.training.run import TrainOptions, open_run
from dalle_cli.training.tasks.codebook_health import CollapseMonitor
from dalle_cli.training.tasks.dvae import DiscreteVAETask
from dalle_cli.training.tasks.initial_weights import start_from
from dalle_cli.training.tasks.model_setup import set_up_dvae


def run_train_dvae(recipe: DVAERecipe, options: TrainOptions, terminal: Terminal) -> None:
    """Start or resume a run; raises DalleError for whatever a user can cause."""
    with init_process_group(choose_device(options.device)) as world:
        _train(recipe, options, terminal=terminal, world=world)


def _train(recipe: DVAERecipe, options: TrainOptions, *, terminal: Terminal, world: World) -> None:
    run = open_run(recipe, options, terminal=terminal, world=world, captions_required=False)
    run.describe()
    if options.dry_run:
        facts = {"run": str(options.run), "dry_run": True}
        terminal.result(f"nothing written to {options.run}", facts)
        return

    dvae, scales = set_up_dvae(recipe, precision=run.precision, device=world.device)
    if run.init_from is not None:
        start_from(run.init_from, dvae, "dvae", terminal=terminal)
    run.record()
    run.train(
        dvae,
        partial(DiscreteVAETask, loss=run.recipe.loss, seed=recipe.training.seed),
        preprocess=DVAEPreprocessing(recipe.model.image_size),
        model_config={"kind": "dvae", "model": recipe.model.model_dump()},
        scales=scales,
        on_report=CollapseMonitor(recipe.model.vocab_size, recipe.training.steps, terminal.warn),
    )

    inputs = f"{options.data_words} --dvae {options.run}"
    terminal.say(f"next: dalle train-transformer RECIPE {inputs} --run DIR")
    terminal.result(str(options.run), {"run": str(options.run)})
