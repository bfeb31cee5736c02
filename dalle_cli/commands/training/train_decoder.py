"""`dalle train-decoder`: captioned pictures and a frozen CLIP to a decoder of image embeddings."""

from dalle_cli.config import DecoderRecipe
from dalle_cli.console import Terminal
from dalle_cli.runtime.devices import choose_device, explain_out_of_memory
from dalle_cli.runtime.distributed import World
from dalle_cli.runtime.processes.process_group import init_process_group
from dalle_cli.training.run import TrainOptions, open_run
from dalle_cli.training.tasks.initial_weights import start_from
from dalle_cli.training.tasks.unclip.frozen_clip import (
    check_kept_clip,
    keep_clip,
    load_frozen_clip,
    warn_of_cut_by_clip,
)
from dalle_cli.training.tasks.unclip.setups import decoder_setup


def run_train_decoder(
    recipe: DecoderRecipe, options: TrainOptions, clip: str, terminal: Terminal
) -> None:
    """Start or resume a run; raises DalleError for whatever a user can cause."""
    device = choose_device(options.device)
    with explain_out_of_memory(), init_process_group(device) as world:
        _train(recipe, options, clip=clip, terminal=terminal, world=world)


def _train(
    recipe: DecoderRecipe, options: TrainOptions, *, clip: str, terminal: Terminal, world: World
) -> None:
    run = open_run(recipe, options, terminal=terminal, world=world, captions_required=True)
    scorer = load_frozen_clip(
        clip, recipe.model, run.data.sources, device=world.device, precision=run.precision
    )
    run.describe(dry_run=options.dry_run)
    warn_of_cut_by_clip(run, scorer)
    check_kept_clip(run.folder, clip, scorer)
    setup = decoder_setup(run.recipe, precision=run.precision, world=world, scorer=scorer)
    if options.dry_run:
        run.report_forecast(setup)
        return

    if run.init_from is not None:
        start_from(run.init_from, setup.model, recipe.kind, terminal=terminal)
    with run.writing():
        with world.main_first() as is_ours:
            if is_ours:
                run.record()
                keep_clip(run.folder, clip, scorer)
        run.train(setup)

    terminal.suggest(["generate", str(options.run), "a caption", "--prior", "RUN"])
    terminal.result(str(options.run), {"run": str(options.run)})
