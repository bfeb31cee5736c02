"""`dalle train-transformer`: captioned pictures and a discrete VAE to a transformer.

The pictures may come as tokens, encoded beforehand by the discrete VAE.
"""

from dataclasses import dataclass
from pathlib import Path

from dalle_cli.config import TransformerRecipe
from dalle_cli.console import Terminal
from dalle_cli.runtime.devices import choose_device, explain_out_of_memory
from dalle_cli.runtime.distributed import World
from dalle_cli.runtime.processes.process_group import init_process_group
from dalle_cli.training.attention_backend import warn_of_missing_compiler
from dalle_cli.training.run import TrainOptions, open_run
from dalle_cli.training.setup import transformer_setup
from dalle_cli.training.tasks.frozen_dvae import (
    check_kept_dvae,
    keep_dvae,
    load_frozen_dvae,
    prepare_for_inference,
)
from dalle_cli.training.tasks.initial_weights import start_from, warn_of_another_dvae
from dalle_cli.training.tasks.preview_captions import read_preview_captions
from dalle_cli.training.tasks.tokenizer_choice import (
    choose_tokenizer,
    keep_known_words,
    keep_tokenizer,
    warn_of_cut_captions,
)


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
    device = choose_device(options.device)
    with explain_out_of_memory(), init_process_group(device) as world:
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
    run.describe(dry_run=options.dry_run)
    tokenizer = choose_tokenizer(run, recipe.tokenizer, inputs.tokenizer)
    warn_of_cut_captions(run, tokenizer, recipe.model.text_len - 1)
    prepare_for_inference(dvae, precision=run.precision, device=world.device)
    setup = transformer_setup(
        run.recipe,
        precision=run.precision,
        world=world,
        dvae=dvae,
        tokenizer=tokenizer,
        previewed=previewed,
    )
    warn_of_missing_compiler(
        recipe.runtime.attention, setup.model, device=world.device, warn=terminal.warn
    )
    if options.dry_run:
        run.report_forecast(setup)
        return

    if run.init_from is not None:
        start_from(
            run.init_from, setup.model, "transformer", tokenizer=tokenizer, terminal=terminal
        )
        warn_of_another_dvae(run.init_from, inputs.dvae, terminal)
    check_kept_dvae(run.folder, inputs.dvae)
    with run.writing():
        with world.main_first() as is_ours:
            if is_ours:
                run.record()
                keep_dvae(run.folder, inputs.dvae)
                keep_known_words(run)
                keep_tokenizer(run.folder, tokenizer)
        run.train(setup)

    terminal.suggest(["generate", str(options.run), "a caption"])
    terminal.result(str(options.run), {"run": str(options.run)})
