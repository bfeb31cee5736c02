"""Times a few updates of each model of a plan, in this process, before anything is written.

The dVAE and the CLIP read the pictures; the transformer reads made-up image tokens, as no dVAE is
trained yet.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from dalle_cli.config import ClipRecipe, DVAERecipe, Recipe, TransformerRecipe
from dalle_cli.console import Terminal
from dalle_cli.data.sources import Sample, Source
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.loading import build_dvae
from dalle_cli.runtime.distributed import World
from dalle_cli.training.planning.plan import Plan
from dalle_cli.training.planning.rehearsal import Rehearsal
from dalle_cli.training.run import TrainingRun, TrainOptions, open_run
from dalle_cli.training.run_data import Portion, RunData
from dalle_cli.training.setup import clip_setup, dvae_setup, transformer_setup
from dalle_cli.training.tasks.frozen_dvae import prepare_for_inference
from dalle_cli.training.tasks.preview_captions import NO_PREVIEW_CAPTIONS
from dalle_cli.training.tasks.tokenizer_choice import choose_tokenizer


class TokenStandIn:
    """A source whose samples have made-up image tokens in place of their pictures."""

    def __init__(self, source: Source, *, n_tokens: int, vocab_size: int) -> None:
        self.name, self.form = source.name, source.form
        self.problems, self.unread = source.problems, source.unread
        self.n_lost = source.n_lost
        self._source = source
        self._n_tokens, self._vocab_size = n_tokens, vocab_size

    def __len__(self) -> int:
        return len(self._source)

    def key(self, index: int) -> str:
        return self._source.key(index)

    def read(self, index: int) -> Sample:
        tokens = np.random.default_rng(index).integers(self._vocab_size, size=(2, self._n_tokens))
        return Sample(self.key(index), b"", self.captions(index), image_tokens=tokens)

    def captions(self, index: int) -> list[str]:
        return self._source.captions(index)

    def fingerprint(self) -> str:
        return self._source.fingerprint()


def try_plan(
    plan: Plan, options: TrainOptions, world: World, *, n_devices: int
) -> Mapping[str, Rehearsal]:
    """Rehearse each recipe of a plan; raises DalleError where the data can't be trained on.

    options    data and device; no run is in its folder yet
    n_devices  among which a batch is divided: the rehearsal takes the share of one
    """
    return {
        kind: _rehearse(_for_one_device(recipe, n_devices), plan, options, world)
        for kind, recipe in plan.recipes.items()
    }


def _for_one_device(recipe: Recipe, n_devices: int) -> Recipe:
    share = max(recipe.training.global_batch_size // n_devices, 1)
    training = recipe.training.model_copy(update={"global_batch_size": share})
    return recipe.model_copy(update={"training": training})


def _rehearse(recipe: Recipe, plan: Plan, options: TrainOptions, world: World) -> Rehearsal:
    silent = Terminal(quiet=True)
    options = replace(options, run=options.run / recipe.kind)  # beside a job that was begun
    run = open_run(recipe, options, terminal=silent, world=world, captions_required=True)
    if isinstance(run.recipe, DVAERecipe):
        return run.rehearse(dvae_setup(run.recipe, precision=run.precision, world=world))

    assert isinstance(run.recipe, ClipRecipe | TransformerRecipe)  # a plan has no other models
    tokenizer = choose_tokenizer(run, run.recipe.tokenizer, None)
    if isinstance(run.recipe, ClipRecipe):
        clip = clip_setup(run.recipe, precision=run.precision, world=world, tokenizer=tokenizer)
        return run.rehearse(clip)
    return _rehearse_transformer(run, plan, tokenizer)


def _rehearse_transformer(run: TrainingRun, plan: Plan, tokenizer: Tokenizer) -> Rehearsal:
    of_dvae = plan.recipes["dvae"]
    assert isinstance(of_dvae, DVAERecipe)
    dvae = build_dvae(of_dvae.model).eval().requires_grad_(False)
    prepare_for_inference(dvae, precision=run.precision, device=run.world.device)

    setup = transformer_setup(
        run.recipe,
        precision=run.precision,
        world=run.world,
        dvae=dvae,
        tokenizer=tokenizer,
        previewed=NO_PREVIEW_CAPTIONS,
    )
    stand_in = partial(TokenStandIn, n_tokens=dvae.grid_size**2, vocab_size=dvae.vocab_size)
    standing_in = [
        Portion(stand_in(portion.source), portion.indices)
        for portion in (run.data.training, run.data.validation)
    ]
    return replace(run, data=RunData(*standing_in)).rehearse(setup)
