"""`dalle train-clip`: captioned pictures to a CLIP that matches captions and pictures."""

from pathlib import Path

from dalle_cli.config import ClipRecipe
from dalle_cli.console import Terminal
from dalle_cli.runtime.devices import choose_device, explain_out_of_memory
from dalle_cli.runtime.distributed import World
from dalle_cli.runtime.processes.process_group import init_process_group
from dalle_cli.training.run import TrainOptions, open_run
from dalle_cli.training.setup import clip_setup
from dalle_cli.training.tasks.initial_weights import start_from
from dalle_cli.training.tasks.tokenizer_choice import (
    choose_tokenizer,
    keep_tokenizer,
    warn_of_cut_captions,
)


def run_train_clip(
    recipe: ClipRecipe, options: TrainOptions, tokenizer_file: Path | None, terminal: Terminal
) -> None:
    """Start or resume a run; raises DalleError for whatever a user can cause."""
    device = choose_device(options.device)
    with explain_out_of_memory(), init_process_group(device) as world:
        _train(recipe, options, tokenizer_file=tokenizer_file, terminal=terminal, world=world)


def _train(
    recipe: ClipRecipe,
    options: TrainOptions,
    *,
    tokenizer_file: Path | None,
    terminal: Terminal,
    world: World,
) -> None:
    run = open_run(recipe, options, terminal=terminal, world=world, captions_required=True)
    run.describe(dry_run=options.dry_run)
    tokenizer = choose_tokenizer(run, recipe.tokenizer, tokenizer_file)
    warn_of_cut_captions(run, tokenizer, recipe.model.text_len - 2)
    setup = clip_setup(run.recipe, precision=run.precision, world=world, tokenizer=tokenizer)
    if options.dry_run:
        run.report_forecast(setup)
        return

    if run.init_from is not None:
        start_from(run.init_from, setup.model, "clip", tokenizer=tokenizer, terminal=terminal)
    with run.writing():
        with world.main_first() as is_ours:
            if is_ours:
                run.record()
                keep_tokenizer(run.folder, tokenizer)
        run.train(setup)

    ranking = ["--clip", str(options.run), "--out", "DIR"]
    terminal.suggest(["rerank", "PICTURES", "a caption", *ranking])
    terminal.result(str(options.run), {"run": str(options.run)})
