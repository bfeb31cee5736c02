"""`dalle train-dvae`: pictures to a discrete VAE."""

from dalle_cli.config import DVAERecipe
from dalle_cli.console import Terminal
from dalle_cli.recipe import fitting_transformer
from dalle_cli.runtime.devices import choose_device, explain_out_of_memory
from dalle_cli.runtime.distributed import World
from dalle_cli.runtime.processes.process_group import init_process_group
from dalle_cli.training.run import TrainOptions, open_run
from dalle_cli.training.setup import dvae_setup
from dalle_cli.training.tasks.codebook_health import CollapseMonitor
from dalle_cli.training.tasks.initial_weights import start_from


def run_train_dvae(recipe: DVAERecipe, options: TrainOptions, terminal: Terminal) -> None:
    """Start or resume a run; raises DalleError for whatever a user can cause."""
    device = choose_device(options.device)
    with explain_out_of_memory(), init_process_group(device) as world:
        _train(recipe, options, terminal=terminal, world=world)


def _train(recipe: DVAERecipe, options: TrainOptions, *, terminal: Terminal, world: World) -> None:
    run = open_run(recipe, options, terminal=terminal, world=world, captions_required=False)
    run.describe(dry_run=options.dry_run)
    setup = dvae_setup(
        run.recipe,
        precision=run.precision,
        world=world,
        on_report=CollapseMonitor(recipe.model.vocab_size, recipe.training.steps, terminal.warn),
    )
    if options.dry_run:
        run.report_forecast(setup)
        return

    if run.init_from is not None:
        start_from(run.init_from, setup.model, "dvae", terminal=terminal)
    with run.writing():
        run.record()
        run.train(setup)

    grid_size, vocab_size = setup.model.grid_size, setup.model.vocab_size
    like = str(options.command.get("recipe", ""))
    fitting = fitting_transformer(grid_size, vocab_size, like=like)
    inputs = [*options.data_words, "--dvae", str(options.run)]
    terminal.suggest(["train-transformer", fitting, *inputs, "--run", "DIR"])
    terminal.result(str(options.run), {"run": str(options.run)})
