"""The grammar of recipes.

Science has no defaults, types are strict, tables are closed and frozen.
"""

import itertools
import types
import typing
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from dalle_cli.config import (
    RECIPE_TYPES,
    ClipModelTable,
    ClipRecipe,
    Cosine,
    DataTable,
    DVAELossTable,
    DVAEModelTable,
    DVAERecipe,
    EmaTable,
    OptimizerTable,
    PlateauTable,
    PowerSGDTable,
    RuntimeTable,
    Table,
    TokenizerTable,
    TowerTable,
    TrainedClipTable,
    TrainedTransformerTable,
    TrainingTable,
    TransformerLossTable,
    TransformerModelTable,
    TransformerRecipe,
)

ANY_COSINE = Cosine(start=1.0, end=0.5, steps=10)
GOOD: dict[type[Table], dict[str, Any]] = {
    Cosine: {"start": 1.0, "end": 0.5, "steps": 10},
    OptimizerTable: {
        **{"lr": ANY_COSINE, "warmup_steps": 0, "betas": [0.9, 0.99], "eps": 1e-8},
        **{"weight_decay": 0.0, "clip_norm": 0.0, "clip_second_moment": 0.0},
    },
    PlateauTable: {"halvings": 5, "patience": 100, "threshold": 0.01, "smoothing": 0.99},
    EmaTable: {"decay": 0.9, "every": 1},
    DataTable: {"validation_share": 0.1, "shuffle_block": 64, "max_bad_share": 0.0},
    TrainingTable: {"steps": 1, "global_batch_size": 1, "seed": 0},
    DVAEModelTable: {
        **{
            "image_size": 32,
            "vocab_size": 64,
            "n_hidden": 8,
            "n_init": 8,
            "n_groups": 4,
            "blocks_per_group": 1,
        },
    },
    DVAELossTable: {
        "kl_weight": ANY_COSINE,
        "temperature": ANY_COSINE,
        "dequantization": 0.0,
        "min_log_scale": False,
    },
    TransformerModelTable: {
        **{"text_len": 16, "grid_size": 4, "image_vocab_size": 64, "n_layers": 4},
        **{"d_model": 32, "n_heads": 2, "kernel_size": 3},
    },
    TransformerLossTable: {"text_weight": 0.125, "caption_dropout": 0.1},
    TokenizerTable: {"vocab_size": 320, "dropout": 0.1},
    TowerTable: {"n_layers": 1, "d_model": 32, "n_heads": 2, "d_mlp": 50},
}
GOOD[TrainedTransformerTable] = {**GOOD[TransformerModelTable], "text_vocab_size": 300}
GOOD[ClipModelTable] = {
    **{"image_size": 32, "patch_size": 8, "text_len": 16, "d_embed": 24, "activation": "gelu"},
    **{tower: TowerTable(**GOOD[TowerTable]) for tower in ("vision", "text")},
}
GOOD[TrainedClipTable] = {
    **{**GOOD[ClipModelTable], "text_vocab_size": 302, "end_of_text": None},
    **{"pixel_mean": [0.5, 0.5, 0.5], "pixel_std": [0.2, 0.2, 0.2]},
}
OF_EVERY_RECIPE = {
    **{"optimizer": OptimizerTable(**GOOD[OptimizerTable]), "data": DataTable(**GOOD[DataTable])},
    "training": TrainingTable(steps=1, global_batch_size=8, seed=0),
}
GOOD[DVAERecipe] = {
    **{"kind": "dvae", "model": DVAEModelTable(**GOOD[DVAEModelTable])},
    **{"loss": DVAELossTable(**GOOD[DVAELossTable]), **OF_EVERY_RECIPE},
}
GOOD[TransformerRecipe] = {
    **{"kind": "transformer", "model": TransformerModelTable(**GOOD[TransformerModelTable])},
    "tokenizer": TokenizerTable(**GOOD[TokenizerTable]),
    **{"loss": TransformerLossTable(**GOOD[TransformerLossTable]), **OF_EVERY_RECIPE},
}
GOOD[ClipRecipe] = {
    **{"kind": "clip", "model": ClipModelTable(**GOOD[ClipModelTable])},
    **{"tokenizer": TokenizerTable(**GOOD[TokenizerTable]), **OF_EVERY_RECIPE},
}


def tables_in(annotation: Any) -> set[type[BaseModel]]:
    """Find every table that an annotation mentions, and those that these mention."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        inside = {
            t for field in annotation.model_fields.values() for t in tables_in(field.annotation)
        }
        return {annotation, *inside}
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is not None:
        return {table for argument in get_args(annotation) for table in tables_in(argument)}
    return set()


TABLES = {
    TrainedClipTable,
    TrainedTransformerTable,
    *(t for recipe in RECIPE_TYPES.values() for t in tables_in(recipe)),
}
EVERY_TABLE = sorted(TABLES, key=lambda t: t.__name__)
OPTIONAL = {
    (recipe.__name__, key) for recipe in RECIPE_TYPES.values() for key in ("ema", "runtime")
}
OPTIONAL |= {
    ("TokenizerTable", "backend"),
    ("OptimizerTable", "on_spike"),
    ("OptimizerTable", "moments"),
    ("PowerSGDTable", "buffers"),
    ("TransformerLossTable", "token_noise"),
    ("TransformerRecipe", "powersgd"),
    ("PriorModelTable", "d_text"),
    ("PriorModelTable", "text_vocab_size"),
    ("DecoderModelTable", "text_len"),
    ("DecoderModelTable", "d_text"),
    ("DecoderModelTable", "text"),
    ("OptimizerTable", "plateau"),
    ("OptimizerTable", "restarts"),
}
EITHER = {  # a table has one of the two
    Cosine: {"share", "steps"},
    OptimizerTable: {"warmup_share", "warmup_steps"},
}
OPTIONAL |= {(table.__name__, key) for table, keys in EITHER.items() for key in keys}


def refused(table: type[Table], **changes: object) -> str:
    with pytest.raises(ValidationError) as caught:
        table(**{**GOOD[table], **changes})
    return str(caught.value)


def test_nothing_but_plumbing_has_a_default() -> None:
    with_default = {
        (table.__name__, name)
        for table in EVERY_TABLE
        for name, field in table.model_fields.items()
        if not field.is_required() and table is not RuntimeTable
    }
    assert with_default == OPTIONAL


def test_all_plumbing_has_a_default() -> None:
    assert not any(field.is_required() for field in RuntimeTable.model_fields.values())


@pytest.mark.parametrize("table", EVERY_TABLE, ids=lambda table: table.__name__)
def test_every_table_is_strict_frozen_and_closed(table: type[BaseModel]) -> None:
    config = table.model_config
    assert config["strict"] and config["frozen"] and config["extra"] == "forbid"


@pytest.mark.parametrize("table", GOOD, ids=lambda table: table.__name__)
def test_examples_are_good_and_every_key_of_them_is_needed(table: type[Table]) -> None:
    table(**GOOD[table])
    for key in GOOD[table]:
        told = "must have either" if key in EITHER.get(table, ()) else "Field required"
        with pytest.raises(ValidationError, match=told):
            table(**{name: value for name, value in GOOD[table].items() if name != key})


def test_tables_cannot_be_changed_and_take_no_unknown_key() -> None:
    ema = EmaTable(**GOOD[EmaTable])
    with pytest.raises(ValidationError, match="frozen"):
        ema.every = 2
    assert "Extra inputs" in refused(EmaTable, decays=0.5)


@pytest.mark.parametrize("steps", [0, -1, 1.5, "5", True, None])
def test_a_schedule_takes_a_whole_number_of_updates(steps: object) -> None:
    assert "steps" in refused(Cosine, steps=steps)


@pytest.mark.parametrize("share", [0, -0.5, 1.5, "1.0", True])
def test_a_schedule_takes_a_share_of_the_run(share: object) -> None:
    changes = {"share": share, "steps": None}
    assert "share" in refused(Cosine, **changes)


@pytest.mark.parametrize("table", EITHER, ids=lambda table: table.__name__)
def test_a_length_is_a_share_or_in_updates_and_not_both(table: type[Table]) -> None:
    share, steps = sorted(EITHER[table])
    table(**{**GOOD[table], share: 0.5, steps: None})
    told = f"must have either `{share}` or `{steps}`, and not both"
    assert told in refused(table, **{share: 0.5, steps: 5})
    assert told in refused(table, **{share: None, steps: None})


@pytest.mark.parametrize(
    ("share", "total", "length"), [(1.0, 8, 8), (0.5, 11, 6), (0.0333, 3000, 100), (0.1, 2, 1)]
)
def test_a_share_is_rounded_to_updates_and_is_never_nothing(
    share: float, total: int, length: int
) -> None:
    assert Cosine(start=1, end=0, share=share).length(total) == length
    assert Cosine(start=1, end=0, steps=7).length(total) == 7


@pytest.mark.parametrize(("share", "length"), [(0.0, 0), (0.25, 2), (0.01, 0)])
def test_a_warm_up_may_be_nothing(share: float, length: int) -> None:
    changes = {"warmup_share": share, "warmup_steps": None}
    assert OptimizerTable(**{**GOOD[OptimizerTable], **changes}).warmup_length(8) == length


@pytest.mark.parametrize("end", ["0.5", True, None])
def test_a_schedule_takes_numbers_alone(end: object) -> None:
    assert "end" in refused(Cosine, end=end)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_schedule_takes_no_number_that_would_ruin_a_run(value: float) -> None:
    assert "start" in refused(Cosine, start=value)


def test_whole_numbers_serve_where_numbers_are_asked_for() -> None:
    schedule = Cosine(start=1, end=0, steps=5)
    assert (schedule.start, schedule.end) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        (OptimizerTable, "betas", [0.9]),
        (OptimizerTable, "betas", [0.9, 1.0]),
        (OptimizerTable, "eps", 0.0),
        (OptimizerTable, "weight_decay", -0.1),
        (OptimizerTable, "clip_norm", -1.0),
        (EmaTable, "decay", 1.0),
        (DataTable, "validation_share", 0.0),
        (DataTable, "validation_share", 1.0),
        (DataTable, "max_bad_share", 1.0),
        (TrainingTable, "global_batch_size", 0),
        (TrainingTable, "seed", -1),
        (TrainingTable, "seed", 2**63),
        (TrainingTable, "steps", 10**18),
        (TrainingTable, "global_batch_size", 10**18),
        (OptimizerTable, "warmup_steps", 10**18),
        (DVAEModelTable, "image_size", 10**18),
        (DVAEModelTable, "vocab_size", 1),
        (TransformerModelTable, "text_len", 1),
        (TransformerLossTable, "text_weight", 1.1),
        (TransformerLossTable, "caption_dropout", 1.0),
        (TokenizerTable, "vocab_size", 257),
        (TokenizerTable, "dropout", -0.1),
        (TokenizerTable, "backend", "sentencepiece"),
        (TowerTable, "n_layers", 0),
        (ClipModelTable, "text_len", 2),
        (ClipModelTable, "activation", "relu"),
        (ClipModelTable, "vision", 3),
        (TrainedClipTable, "end_of_text", -1),
        (TrainedClipTable, "pixel_mean", [0.5]),
        (TrainedClipTable, "pixel_mean", [0.5, 0.5, float("nan")]),
        (TrainedClipTable, "pixel_std", [0.5, 0.5, 0.5, 0.5]),
        (TrainedClipTable, "pixel_std", [0.5, 0.0, 0.5]),
    ],
)
def test_values_out_of_bounds_are_refused_by_key(
    table: type[Table], key: str, value: object
) -> None:
    assert key in refused(table, **{key: value})


@pytest.mark.parametrize("precision", ["fp64", "BF16", 16])
def test_unknown_precisions_are_refused(precision: object) -> None:
    with pytest.raises(ValidationError, match="precision"):
        RuntimeTable(precision=precision)


@pytest.mark.parametrize(
    ("table", "changes", "told"),
    [
        (DVAEModelTable, {"image_size": 36}, "image_size 36 is not divisible by 8"),
        (DVAEModelTable, {"n_hidden": 6}, "n_hidden 6 is not divisible by 4"),
        (TransformerModelTable, {"n_heads": 5}, "d_model 32 is not divisible by n_heads 5"),
        (TransformerModelTable, {"kernel_size": 4}, "kernel_size 4 is not odd"),
        (TowerTable, {"n_heads": 5}, "d_model 32 is not divisible by n_heads 5"),
        (ClipModelTable, {"patch_size": 5}, "image_size 32 is not divisible by patch_size 5"),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(
    table: type[Table], changes: dict[str, int], told: str
) -> None:
    assert told in refused(table, **changes)


@pytest.mark.parametrize("micro_batch_size", [1, 4, 7, 9])
def test_a_contrastive_batch_is_never_cut(micro_batch_size: int) -> None:
    told = refused(ClipRecipe, runtime=RuntimeTable(micro_batch_size=micro_batch_size))
    assert "runtime.micro_batch_size" in told and "0 or 8, as `training.global_batch_size`" in told
    assert f"not {micro_batch_size}" in told


@pytest.mark.parametrize("micro_batch_size", [0, 8])
def test_a_contrastive_batch_may_be_given_whole(micro_batch_size: int) -> None:
    recipe = ClipRecipe(**GOOD[ClipRecipe], runtime=RuntimeTable(micro_batch_size=micro_batch_size))
    assert recipe.runtime.micro_batch_size == micro_batch_size


def test_a_contrastive_batch_has_two_pairs_at_least() -> None:
    one, two = (TrainingTable(steps=1, global_batch_size=size, seed=0) for size in (1, 2))
    assert "`training.global_batch_size` must be at least 2" in refused(ClipRecipe, training=one)
    ClipRecipe(**{**GOOD[ClipRecipe], "training": two})


@pytest.mark.parametrize("floor", [0.0, -1.0, 2.5])
def test_a_floor_of_zero_is_a_floor(floor: float) -> None:
    value = DVAELossTable(**{**GOOD[DVAELossTable], "min_log_scale": floor}).min_log_scale
    assert value is not False and value == floor


def test_no_floor_is_spelt_false() -> None:
    assert DVAELossTable(**GOOD[DVAELossTable]).min_log_scale is False
    assert "min_log_scale" in refused(DVAELossTable, min_log_scale=True)


@pytest.mark.parametrize(
    ("runtime", "told"),
    [
        (
            {"zero_stage": 1, "engine": "local"},
            "`zero_stage` 1 is DeepSpeed's: `engine` must be deepspeed, not local",
        ),
        (
            {"zero_stage": 3, "engine": "ddp"},
            "`zero_stage` 3 is DeepSpeed's: `engine` must be deepspeed, not ddp",
        ),
        ({"engine": "deepspeed"}, "`engine` deepspeed needs a `zero_stage` of 1, 2 or 3"),
        ({"offload": "optimizer"}, "`offload` optimizer is DeepSpeed's: it needs a `zero_stage`"),
        ({"offload": "parameters"}, "`offload` parameters is DeepSpeed's: it needs a `zero_stage`"),
        (
            {"offload": "optimizer", "engine": "ddp"},
            "`offload` optimizer is DeepSpeed's: it needs a `zero_stage`",
        ),
        (
            {"offload": "parameters", "zero_stage": 1},
            "needs `zero_stage` 3, which partitions them: 1",
        ),
        (
            {"offload": "parameters", "zero_stage": 2},
            "needs `zero_stage` 3, which partitions them: 2",
        ),
        ({"zero_stage": 4}, "zero_stage"),
        ({"zero_stage": -1}, "zero_stage"),
        ({"zero_stage": "2"}, "zero_stage"),
        ({"zero_stage": 2, "offload": True}, "offload"),
        ({"zero_stage": 2, "offload": "nvme"}, "offload"),
        ({"engine": "horovod"}, "engine"),
    ],
)
def test_engines_that_make_no_sense_are_refused(runtime: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RuntimeTable(**runtime)
    assert told in str(caught.value)


REPLICAS_OR_ZERO = [
    (engine, stage, offload)
    for engine, stage, offload in itertools.product(
        ["auto", "local", "ddp", "deepspeed"], range(4), [False, "optimizer", "parameters"]
    )
    if (engine in ("auto", "deepspeed") if stage else engine != "deepspeed" and offload is False)
    and (offload != "parameters" or stage == 3)
]


@pytest.mark.parametrize(("engine", "stage", "offload"), REPLICAS_OR_ZERO)
def test_every_other_engine_is_accepted(engine: str, stage: int, offload: str | bool) -> None:
    runtime = RuntimeTable(engine=engine, zero_stage=stage, offload=offload)
    assert TransformerRecipe(**GOOD[TransformerRecipe], runtime=runtime).runtime == runtime


@pytest.mark.parametrize("table", [DVAERecipe, ClipRecipe], ids=lambda table: table.__name__)
@pytest.mark.parametrize(
    ("runtime", "told"),
    [
        ({"zero_stage": 1}, "`zero_stage` is for the transformer"),
        (
            {"zero_stage": 3, "engine": "deepspeed", "offload": "parameters"},
            "`zero_stage` is for the transformer",
        ),
    ],
)
def test_small_models_refuse_what_is_the_transformers_own(
    table: type[Table], runtime: dict[str, Any], told: str
) -> None:
    assert told in refused(table, runtime=RuntimeTable(**runtime))


@pytest.mark.parametrize("table", [DVAERecipe, ClipRecipe], ids=lambda table: table.__name__)
@pytest.mark.parametrize("engine", ["auto", "local", "ddp"])
def test_small_models_train_as_whole_replicas(table: type[Table], engine: str) -> None:
    runtime = RuntimeTable(engine=engine, precision="bf16")
    assert table(**GOOD[table], runtime=runtime).runtime.engine == engine


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_compression_and_zero_are_refused_together_with_both_values(stage: int) -> None:
    told = refused(
        TransformerRecipe, powersgd=PowerSGDTable(rank=8), runtime=RuntimeTable(zero_stage=stage)
    )
    assert "`powersgd.rank` 8" in told and f"`runtime.zero_stage` {stage}" in told


@pytest.mark.parametrize(("rank", "stage"), [(0, 0), (0, 2), (8, 0)])
def test_compression_and_zero_go_alone(rank: int, stage: int) -> None:
    powersgd, runtime = PowerSGDTable(rank=rank), RuntimeTable(zero_stage=stage)
    recipe = TransformerRecipe(**GOOD[TransformerRecipe], powersgd=powersgd, runtime=runtime)
    assert (recipe.powersgd.rank, recipe.runtime.zero_stage) == (rank, stage)


@pytest.mark.parametrize(("on_spike", "stage"), [("skip", 0), ("warn", 2), ("stop", 3)])
def test_updates_are_skipped_by_their_loss_in_whole_replicas_alone(
    on_spike: str, stage: int
) -> None:
    good = GOOD[TransformerRecipe]
    runtime = RuntimeTable(zero_stage=stage)
    changed = {**good, "optimizer": good["optimizer"].model_copy(update={"on_spike": on_spike})}
    assert TransformerRecipe(**changed, runtime=runtime).optimizer.on_spike == on_spike
    skipping = good["optimizer"].model_copy(update={"on_spike": "skip"})
    told = refused(TransformerRecipe, optimizer=skipping, runtime=RuntimeTable(zero_stage=2))
    assert "`optimizer.on_spike` skip" in told and "`runtime.zero_stage` 2" in told


def test_compression_has_two_formats() -> None:
    assert PowerSGDTable(rank=8).buffers == "fp32"
    assert PowerSGDTable(rank=8, buffers="paper").buffers == "paper"
    with pytest.raises(ValidationError, match="buffers"):
        PowerSGDTable(rank=8, buffers="fp16")


def test_compression_has_no_negative_rank() -> None:
    with pytest.raises(ValidationError, match="rank"):
        PowerSGDTable(rank=-1)


@pytest.mark.parametrize(
    ("runtime", "told"),
    [
        ({"shard_group": 2, "zero_stage": 3}, "does not go with `zero_stage` 3"),
        ({"shard_group": "machine", "engine": "ddp"}, "does not go with `engine` ddp"),
        ({"engine": "fsdp"}, "`engine` fsdp needs a `shard_group`"),
        ({"engine": "fsdp", "zero_stage": 2}, "`engine` must be deepspeed, not fsdp"),
        ({"shard_group": -1}, "greater than or equal to 0"),
        ({"shard_group": "rack"}, "machine"),
    ],
)
def test_groups_go_with_nothing_else_that_divides_the_model(
    runtime: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValidationError, match=told):
        RuntimeTable(**runtime)


@pytest.mark.parametrize("table", [DVAERecipe, ClipRecipe], ids=lambda table: table.__name__)
def test_small_models_are_not_sharded_in_groups(table: type[Table]) -> None:
    told = refused(table, runtime=RuntimeTable(shard_group=2))
    assert "`shard_group` is for the transformer" in told


def test_moments_have_two_formats() -> None:
    table = GOOD[OptimizerTable]
    assert OptimizerTable(**table).moments == "fp32"
    assert OptimizerTable(**table, moments="paper").moments == "paper"
    with pytest.raises(ValidationError, match="moments"):
        OptimizerTable(**table, moments="fp16")
