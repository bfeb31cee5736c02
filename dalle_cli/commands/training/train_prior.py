"""`dalle train-prior`: captions and a frozen CLIP to a prior that guesses image embeddings.

The pictures may come as embeddings, made beforehand by the CLIP.
"""

from typing import Any

from dalle_cli.config import AnyPriorRecipe, AutoregressivePriorRecipe, PriorRecipe
from dalle_cli.console import Terminal
from dalle_cli.models.unclip.embedding_codec import EmbeddingCodec
from dalle_cli.runtime.devices import choose_device, explain_out_of_memory
from dalle_cli.runtime.distributed import World
from dalle_cli.runtime.processes.process_group import init_process_group
from dalle_cli.scoring.clip_scorer import ClipScorer
from dalle_cli.training.run import TrainingRun, TrainOptions, open_run
from dalle_cli.training.setup import TrainingSetup
from dalle_cli.training.tasks.initial_weights import start_from
from dalle_cli.training.tasks.unclip.fitted_codec import fit_codec, keep_codec
from dalle_cli.training.tasks.unclip.frozen_clip import (
    check_kept_clip,
    keep_clip,
    load_frozen_clip,
    warn_of_cut_by_clip,
)
from dalle_cli.training.tasks.unclip.measured_variances import measure_variances
from dalle_cli.training.tasks.unclip.setups import (
    autoregressive_prior_setup,
    prior_pairs,
    prior_setup,
    unclip_preprocessing,
)


def run_train_prior(
    recipe: AnyPriorRecipe, options: TrainOptions, clip: str, terminal: Terminal
) -> None:
    """Start or resume a run; raises DalleError for whatever a user can cause."""
    device = choose_device(options.device)
    with explain_out_of_memory(), init_process_group(device) as world:
        _train(recipe, options, clip=clip, terminal=terminal, world=world)


def _train(
    recipe: AnyPriorRecipe, options: TrainOptions, *, clip: str, terminal: Terminal, world: World
) -> None:
    run = open_run(
        recipe,
        options,
        terminal=terminal,
        world=world,
        captions_required=True,
        embeddings_allowed=True,
    )
    scorer = load_frozen_clip(
        clip, recipe.model, run.data.sources, device=world.device, precision=run.precision
    )
    run.describe(dry_run=options.dry_run)
    warn_of_cut_by_clip(run, scorer)
    check_kept_clip(run.folder, clip, scorer)
    codec = _codec(run, scorer)
    setup = _setup(run, scorer, codec)
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
                if codec is not None:
                    keep_codec(run.folder, codec)
        run.train(setup)
        with world.main_first() as is_ours:
            if is_ours:
                _measure(run, scorer)

    terminal.suggest(["generate", "DECODER", "a caption", "--prior", str(options.run)])
    terminal.result(str(options.run), {"run": str(options.run)})


def _codec(run: TrainingRun[Any], scorer: ClipScorer) -> EmbeddingCodec | None:
    """Return the codec of a prior that predicts codes."""
    if not isinstance(run.recipe, AutoregressivePriorRecipe):
        return None
    return fit_codec(
        run,
        run.recipe.model,
        preprocess=unclip_preprocessing(scorer),
        encode=prior_pairs(run.recipe, scorer),
    )


def _setup(
    run: TrainingRun[Any], scorer: ClipScorer, codec: EmbeddingCodec | None
) -> TrainingSetup[Any]:
    precision, world = run.precision, run.world
    if codec is None:
        return prior_setup(run.recipe, precision=precision, world=world, scorer=scorer)
    return autoregressive_prior_setup(
        run.recipe, precision=precision, world=world, scorer=scorer, codec=codec
    )


def _measure(run: TrainingRun[Any], scorer: ClipScorer) -> None:
    """Measure what a trained diffusion prior samples with."""
    if isinstance(run.recipe, PriorRecipe):
        measure_variances(
            run,
            run.recipe.model,
            preprocess=unclip_preprocessing(scorer),
            encode=prior_pairs(run.recipe, scorer),
        )
