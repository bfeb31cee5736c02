"""`dalle train-clip`: captioned pictures to a CLIP that tells which caption belongs to which picture."""

from functools import partial
from pathlib import Path

import torch

from dalle_cli.config import ClipRecipe
from dalle_cli.console import Terminal
from dalle_cli.data.preprocessing import ClipPreprocessing
from dalle_cli.loading import build_clip, trained_clip_table
from dalle_cli.runtime.devices import choose_device
from dalle_cli.runtime.distributed import init_process_group
from dalle_cli.runtime.precision import apply_precision
from dalle_cli.training.run import TrainingRun, TrainOptions, open_run
from dalle_cli.training.tasks.clip import ClipTask
from dalle_cli.training.tokenizer_choice import choose_tokenizer, keep_tokenizer


def train_clip(
    recipe: ClipRecipe, options: TrainOptions, tokenizer_file: Path | None, terminal: Terminal
) -> None:
    """Begin or resume the run; raises DalleError for what a user can cause."""
    with init_process_group(choose_device(options.device)) as world:
        _train(
            open_run(recipe, options, terminal, True, world),
            recipe,
            options,
            tokenizer_file,
            terminal,
        )


def _train(
    session: TrainingRun,
    recipe: ClipRecipe,
    options: TrainOptions,
    tokenizer_file: Path | None,
    terminal: Terminal,
) -> None:
    with torch.device("meta"):
        session.describe(build_clip(trained_clip_table(recipe.model, recipe.tokenizer.vocab_size)))
    if options.dry_run:
        terminal.result(
            f"nothing written to {options.run}", {"run": str(options.run), "dry_run": True}
        )
        return
    tokenizer = choose_tokenizer(session, recipe.tokenizer, tokenizer_file)
    model = trained_clip_table(recipe.model, tokenizer.vocab_size)
    torch.manual_seed(recipe.training.seed)  # the initial weights
    clip = build_clip(model)
    apply_precision(clip, session.precision, session.world.device)
    with session.world.main_first() as is_ours:
        if is_ours:
            session.record()
            keep_tokenizer(session.run, tokenizer)
    prepare = ClipPreprocessing(
        recipe.model.image_size, recipe.model.text_len, tokenizer, recipe.tokenizer.dropout
    )
    task_on = partial(ClipTask, world=session.world)
    session.train(clip, task_on, prepare, {"kind": "clip", "model": model.model_dump()})
    terminal.say(f'next: dalle rerank PICTURES "a caption" --clip {options.run} --out DIR')
    terminal.result(str(options.run), {"run": str(options.run)})
