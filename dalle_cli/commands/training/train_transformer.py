"""`dalle train-transformer`: captioned pictures and a discrete VAE to a transformer.

The pictures may come as tokens, encoded beforehand by the discrete VAE.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dalle_cli.config import TrainedTransformerTable, TransformerRecipe
from dalle_cli.console import Terminal
from dalle_cli.data.preprocessing import TransformerPreprocessing
from dalle_cli.runtime.devices import choose_device
from dalle_cli.runtime.distributed import World, init_process_group
from dalle_cli.training.flops import train_flops
from dalle_cli.training.run import TrainOptions, open_run
from dalle_cli.training.tasks.frozen_dvae import (
    check_kept_dvae,
    keep_dvae,
    load_frozen_dvae,
    prepare_for_inference,
)
from dalle_cli.training.tasks.initial_weights import start_from, warn_of_another_dvae
from dalle_cli.training.tasks.model_setup import set_up_transformer
from dalle_cli.training.tasks.preview_captions import read_preview_captions
from dalle_cli.training.tasks.tokenizer_choice import choose_tokenizer, keep_tokenizer
from dalle_cli.training.tasks.transformer import TransformerTask
from dalle_cli.training.throughput import SampleCost


@dataclass(frozen=True)
class TransformerOptions:
    """The inputs that only this command has.

    dvae              the dVAE's run
    tokenizer         its merges, if they are not to be learnt
    preview_captions  a file of captions for which previews show pictures
    """

    dvae: Path
    tokenizer: Path | None = None
    preview_captions: Path | None = None


def run_train_transformer(
    recipe: TransformerRecipe, options: TrainOptions, inputs: TransformerOptions, terminal: Terminal
) -> None:
    """Start or resume a run; raises DalleError for whatever a user can cause."""
    with init_process_group(choose_device(options.device)) as world:
        _train(recipe, options, inputs=inputs, terminal=terminal, world=world)


def _train(
    recipe: TransformerRecipe,
    options: TrainOptions,
    *,
    inputs: TransformerOptions,
    terminal: Terminal,
    world: World,
) -> None:
    previewed = read_preview_captions(inputs.preview_captions)
    run = open_run(
        recipe,
        options,
        terminal=terminal,
        world=world,
        captions_required=True,
        tokens_allowed=True,
    )
    dvae = load_frozen_dvae(inputs.dvae, recipe.model, run.data.sources)
    run.describe()
    if options.dry_run:
        facts = {"run": str(options.run), "dry_run": True}
        terminal.result(f"nothing written to {options.run}", facts)
        return

    tokenizer = choose_tokenizer(run, recipe.tokenizer, inputs.tokenizer)
    transformer, scales = set_up_transformer(
        recipe, tokenizer.vocab_size, precision=run.precision, world=world
    )
    if run.init_from is not None:
        start_from(
            run.init_from, transformer, "transformer", tokenizer=tokenizer, terminal=terminal
        )
        warn_of_another_dvae(run.init_from, inputs.dvae, terminal)
    prepare_for_inference(dvae, precision=run.precision, device=world.device)

    check_kept_dvae(run.folder, inputs.dvae)
    with world.main_first() as is_ours:
        if is_ours:
            run.record()
            keep_dvae(run.folder, inputs.dvae)
            keep_tokenizer(run.folder, tokenizer)

    model = TrainedTransformerTable(
        **recipe.model.model_dump(), text_vocab_size=tokenizer.vocab_size
    )
    run.train(
        transformer,
        partial(
            TransformerTask,
            dvae=dvae,
            loss=recipe.loss,
            seed=recipe.training.seed,
            preview_captions=previewed.encoded(tokenizer, model.text_len, device=world.device),
        ),
        preprocess=TransformerPreprocessing(
            image_size=dvae.image_size,
            text_len=recipe.model.text_len,
            tokenizer=tokenizer,
            bpe_dropout=recipe.tokenizer.dropout,
            caption_dropout=recipe.loss.caption_dropout,
        ),
        model_config={"kind": "transformer", "model": model.model_dump()},
        scales=scales,
        powersgd=recipe.powersgd,
        cost=SampleCost(tokens=model.text_len + model.grid_size**2, flops=train_flops(model)),
    )

    terminal.say(f'next: dalle generate {options.run} "a caption"')
    terminal.result(str(options.run), {"run": str(options.run)})
