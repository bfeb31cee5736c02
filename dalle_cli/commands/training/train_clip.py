"""`dalle train-clip`: captioned pictures to a CLIP that matches captions and pictures."""

from functools import partial
from pathlib import Path

from dalle_cli.config import ClipRecipe
from dalle_cli.console import Terminal
from dalle_cli.data.preprocessing import ClipPreprocessing
from dalle_cli.loading import trained_clip_table
from dalle_cli.runtime.devices import choose_device
from dalle_cli.runtime.distributed import World, init_process_group
from dalle_cli.training.run import TrainOptions, open_run
from dalle_cli.training.tasks.clip import ClipTask
from dalle_cli.training.tasks.initial_weights import start_from
from dalle_cli.training.tasks.model_setup import set_up_clip
from dalle_cli.training.tasks.tokenizer_choice import choose_tokenizer, keep_tokenizer


def run_train_clip(
    recipe: ClipRecipe, options: TrainOptions, tokenizer_file: Path | None, terminal: Terminal
) -> None:
    """Start or resume a run; raises DalleError for whatever a user can cause."""
    with init_process_group(choose_device(options.device)) as world:
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
    run.describe()
    if options.dry_run:
        facts = {"run": str(options.run), "dry_run": True}
        terminal.result(f"nothing written to {options.run}", facts)
        return

    tokenizer = choose_tokenizer(run, recipe.tokenizer, tokenizer_file)
    model = trained_clip_table(recipe.model, tokenizer.vocab_size)
    clip = set_up_clip(model, recipe.training.seed, precision=run.precision, device=world.device)
    if run.init_from is not None:
        start_from(run.init_from, clip, "clip", tokenizer=tokenizer, terminal=terminal)

    with world.main_first() as is_ours:
        if is_ours:
            run.record()
            keep_tokenizer(run.folder, tokenizer)
    run.train(
        clip,
        partial(ClipTask, world=world),
        preprocess=ClipPreprocessing(
            image_size=recipe.model.image_size,
            text_len=recipe.model.text_len,
            tokenizer=tokenizer,
            bpe_dropout=recipe.tokenizer.dropout,
        ),
        model_config={"kind": "clip", "model": model.model_dump()},
    )

    terminal.say(f'next: dalle rerank PICTURES "a caption" --clip {options.run} --out DIR')
    terminal.result(str(options.run), {"run": str(options.run)})
