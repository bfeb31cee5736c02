"""The recipes of DALL-E 2's models: what they need, and the engines that are refused."""

from typing import Any

import pytest
from pydantic import ValidationError
from test_unclip import GOOD

from dalle_cli.config import (
    RECIPE_TYPES,
    TRAINED_WITH_CLIP,
    AutoregressivePriorModelTable,
    AutoregressivePriorRecipe,
    Cosine,
    DataTable,
    DecoderLossTable,
    DecoderModelTable,
    DecoderRecipe,
    OptimizerTable,
    PriorLossTable,
    PriorModelTable,
    PriorRecipe,
    RuntimeTable,
    Table,
    TrainingTable,
    training_command,
)

OPTIMIZER: dict[str, Any] = {
    **{"lr": Cosine(start=1.0, end=0.5, steps=10), "warmup_steps": 0, "betas": [0.9, 0.99]},
    **{"eps": 1e-8, "weight_decay": 0.0, "clip_norm": 0.0, "clip_second_moment": 0.0},
}
SHARED = {
    "optimizer": OptimizerTable(**OPTIMIZER),
    "data": DataTable(validation_share=0.1, shuffle_block=64, max_bad_share=0.0),
    "training": TrainingTable(steps=1, global_batch_size=8, seed=0),
}
RECIPES: dict[type[Table], dict[str, Any]] = {
    PriorRecipe: {
        "kind": "prior",
        "model": PriorModelTable(**GOOD[PriorModelTable]),
        "loss": PriorLossTable(caption_dropout=0.1),
    },
    AutoregressivePriorRecipe: {
        "kind": "prior-autoregressive",
        "model": AutoregressivePriorModelTable(**GOOD[AutoregressivePriorModelTable]),
        "loss": PriorLossTable(caption_dropout=0.1),
    },
    DecoderRecipe: {
        "kind": "decoder",
        "model": DecoderModelTable(**GOOD[DecoderModelTable]),
        "loss": DecoderLossTable(embedding_dropout=0.1, caption_dropout=0.5),
    },
}
every_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.__name__)


def refused(recipe: type[Table], **changes: object) -> str:
    with pytest.raises(ValidationError) as caught:
        recipe(**{**SHARED, **RECIPES[recipe], **changes})
    return str(caught.value)


def test_all_kinds_that_train_with_a_clip_are_here() -> None:
    kinds = {settings["kind"] for settings in RECIPES.values()}
    assert kinds == set(TRAINED_WITH_CLIP) < set(RECIPE_TYPES)


@every_recipe
def test_every_key_of_a_recipe_is_needed(recipe: type[Table]) -> None:
    whole = {**SHARED, **RECIPES[recipe]}
    recipe(**whole)
    for key in whole:
        with pytest.raises(ValidationError, match="Field required"):
            recipe(**{name: value for name, value in whole.items() if name != key})


@every_recipe
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_partitions_these_models(recipe: type[Table], stage: int) -> None:
    runtime = RuntimeTable(zero_stage=stage, precision="bf16")
    assert recipe(**SHARED, **RECIPES[recipe], runtime=runtime).runtime.zero_stage == stage


@every_recipe
def test_what_zero_cannot_do_is_refused_with_both_values(recipe: type[Table]) -> None:
    told = refused(recipe, runtime=RuntimeTable(zero_stage=2, precision="fp16"))
    assert "`precision` fp16" in told and "`zero_stage` is 2" in told
    skipping = OptimizerTable(**OPTIMIZER, on_spike="skip")
    told = refused(recipe, optimizer=skipping, runtime=RuntimeTable(zero_stage=1))
    assert "`optimizer.on_spike` skip" in told and "1 DeepSpeed" in told
    assert "`shard_group`" in refused(recipe, runtime=RuntimeTable(shard_group=2))


@every_recipe
def test_fp16_and_skipping_are_for_whole_replicas(recipe: type[Table]) -> None:
    skipping = OptimizerTable(**OPTIMIZER, on_spike="skip")
    changes = {"optimizer": skipping, "runtime": RuntimeTable(precision="fp16")}
    taken = recipe(**{**SHARED, **RECIPES[recipe], **changes})
    assert (taken.optimizer.on_spike, taken.runtime.precision) == ("skip", "fp16")


def test_decoder_without_captions_drops_none() -> None:
    model = DecoderModelTable(**{**GOOD[DecoderModelTable], "text_len": None, "d_text": None})
    assert "`loss.caption_dropout` 0.5 is for a decoder that reads captions" in refused(
        DecoderRecipe, model=model
    )
    loss = DecoderLossTable(embedding_dropout=0.1, caption_dropout=0.0)
    DecoderRecipe(**{**SHARED, **RECIPES[DecoderRecipe], "model": model, "loss": loss})


def test_both_priors_are_trained_by_one_command() -> None:
    commands = {kind: training_command(kind) for kind in RECIPE_TYPES}
    assert commands["prior"] == commands["prior-autoregressive"] == "train-prior"
    assert commands["dvae"] == "train-dvae" and commands["decoder"] == "train-decoder"
