"""DeepSpeed's configuration: what a recipe sets, what a file may tune, what is refused and why."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dalle_cli.config import TransformerRecipe
from dalle_cli.errors import UsageError
from dalle_cli.loading import build_transformer
from dalle_cli.recipe import load_recipe
from dalle_cli.training.engines.deepspeed_config import overrides_of, read_config, zero_config

BATCH, CLIP_NORM, BUCKET = 12, 4.0, 10_560
STAGES = [(stage, offload) for stage in (1, 2, 3) for offload in ("false", "optimizer")] + [
    (3, "parameters")
]

# What Hugging Face's documentation gives for ZeRO 3, without an optimizer and a scheduler.
FOR_THE_TRAINER = """{
    "fp16": {
        "enabled": "auto",
        "loss_scale": 0,
        "loss_scale_window": 1000,
        "initial_scale_power": 16
    },
    "bf16": {"enabled": "auto"},
    "zero_optimization": {
        "stage": 3,
        "offload_optimizer": {"device": "cpu", "pin_memory": true},
        "offload_param": {"device": "cpu", "pin_memory": true},
        "overlap_comm": true,
        "contiguous_gradients": true,
        "sub_group_size": 1e9,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
        "stage3_max_live_parameters": 1e9,
        "stage3_max_reuse_distance": 1e9,
        "stage3_gather_16bit_weights_on_model_save": true
    },
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "steps_per_print": 2000,
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "wall_clock_breakdown": false
}"""


def recipe(stage: int, **runtime: object) -> TransformerRecipe:
    words = {"training.global_batch_size": BATCH, "runtime.zero_stage": stage}
    words |= {f"runtime.{key}": value for key, value in runtime.items()}
    return load_recipe(
        "transformer/tiny", [f"{key}={value}" for key, value in words.items()], kind="transformer"
    )


def config_of(
    given: dict[str, Any], stage: int = 2, n_processes: int = 2, **runtime: object
) -> dict[str, Any]:
    return zero_config(recipe(stage, **runtime), n_processes, bucket=BUCKET, given=given)


def refusals(given: dict[str, Any], **how: Any) -> list[str]:
    """Return the lines that say what is wrong with a file, one for each key."""
    with pytest.raises(UsageError) as caught:
        config_of(given, **how)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def nested(key: str, value: object) -> dict[str, Any]:
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def auto_everywhere(tables: dict[str, Any]) -> dict[str, Any]:
    return {
        key: auto_everywhere(value) if isinstance(value, dict) else "auto"
        for key, value in tables.items()
    }


def written(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_recipe_decides_stage_and_clip(stage: int) -> None:
    config = config_of({}, stage)
    assert config["zero_optimization"]["stage"] == stage
    assert config["gradient_clipping"] == CLIP_NORM


@pytest.mark.parametrize("micro_batch_size", [0, 1, 2, 5])
@pytest.mark.parametrize("n_processes", [1, 2, 3, 4, 12])
def test_batch_sizes_multiply_as_deepspeed_demands(n_processes: int, micro_batch_size: int) -> None:
    config = config_of({}, n_processes=n_processes, micro_batch_size=micro_batch_size)
    micro, accumulated = (
        config["train_micro_batch_size_per_gpu"],
        config["gradient_accumulation_steps"],
    )
    assert micro * accumulated * n_processes == config["train_batch_size"] == BATCH


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_backward_before_an_update_is_all_one_to_deepspeed(stage: int) -> None:
    """The loop counts micro-batches: DeepSpeed would divide the loss by a number of its own."""
    config = config_of({}, stage, micro_batch_size=1)
    assert (
        config["gradient_accumulation_steps"] == 1
        and config["managed_gradient_accumulation"] is False
    )


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_gradients_are_contiguous_at_every_stage(stage: int) -> None:
    assert config_of({}, stage)["zero_optimization"]["contiguous_gradients"] is True


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_no_stage_trains_with_an_optimizer_schedule_or_precision_of_deepspeeds(stage: int) -> None:
    config = config_of({}, stage)
    assert not {"optimizer", "scheduler", "fp16", "bf16", "amp", "torch_autocast"} & config.keys()
    assert (
        config["zero_allow_untested_optimizer"] is True
        and config["zero_force_ds_cpu_optimizer"] is False
    )


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_one_layer_is_summed_or_gathered_in_one_go(stage: int) -> None:
    zero = config_of({}, stage)["zero_optimization"]
    sizes = [size for key, size in zero.items() if key.endswith("bucket_size")]
    assert sizes == [BUCKET] * (3 if stage == 3 else 2)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_what_deals_out_parameters_is_said_at_stage_3_alone(stage: int) -> None:
    zero = config_of({}, stage)["zero_optimization"]
    has_own = any(key.startswith("stage3_") or key == "memory_efficient_linear" for key in zero)
    assert has_own == zero["overlap_comm"] == (stage == 3)


def test_linear_layers_of_stage_3_are_torchs_own() -> None:
    """ZeRO's own would round a 16-bit bias twice."""
    assert config_of({}, stage=3)["zero_optimization"]["memory_efficient_linear"] is False
    (told,) = refusals({"zero_optimization": {"memory_efficient_linear": True}}, stage=3)
    assert told == "`zero_optimization.memory_efficient_linear` is true, the recipe says false"


def test_vectors_of_the_blocks_stay_whole_and_their_matrices_do_not() -> None:
    config = config_of({}, stage=3)
    with torch.device("meta"):
        blocks = build_transformer(recipe(3).model, 320).blocks
    whole = config["zero_optimization"]["stage3_param_persistence_threshold"]
    assert all((p.numel() <= whole) == (p.dim() == 1) for p in blocks.parameters())


@pytest.mark.parametrize(
    ("offload", "devices"),
    [
        ("false", {}),
        ("optimizer", {"offload_optimizer": {"device": "cpu"}}),
        (
            "parameters",
            {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}},
        ),
    ],
)
def test_what_is_offloaded_lies_in_the_hosts_memory(offload: str, devices: dict[str, Any]) -> None:
    zero = config_of({}, stage=3, offload=offload)["zero_optimization"]
    assert {key: value for key, value in zero.items() if key.startswith("offload")} == devices


@pytest.mark.parametrize(("stage", "offload"), STAGES)
def test_auto_everywhere_says_what_no_file_says(stage: int, offload: str) -> None:
    plain = config_of({}, stage, offload=offload)
    sections = {
        "fp16": {"enabled": "auto"},
        "optimizer": {"type": "auto", "params": {"lr": "auto", "betas": "auto"}},
    }
    assert config_of(auto_everywhere(plain) | sections, stage, offload=offload) == plain


@pytest.mark.parametrize(("stage", "offload"), STAGES)
def test_file_may_repeat_what_the_recipe_says(stage: int, offload: str) -> None:
    plain = config_of({}, stage, offload=offload)
    assert config_of(json.loads(json.dumps(plain)), stage, offload=offload) == plain


@pytest.mark.parametrize(
    ("n_processes", "micro_batch_size", "n_micro_batches"),
    [(1, 12, 1), (1, 5, 3), (2, 3, 2), (2, 4, 2), (3, 1, 4), (4, 2, 2)],
)
def test_file_may_repeat_the_recipes_micro_batches(
    n_processes: int, micro_batch_size: int, n_micro_batches: int
) -> None:
    given = {
        "train_batch_size": BATCH,
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": n_micro_batches,
    }
    how = {"n_processes": n_processes, "micro_batch_size": micro_batch_size}
    assert config_of(given, **how) == config_of({}, **how)


def test_whole_share_of_a_process_is_not_a_micro_batch_of_the_recipe() -> None:
    given = {"train_micro_batch_size_per_gpu": 6, "gradient_accumulation_steps": 1}
    assert refusals(given, micro_batch_size=3) == [
        "`train_micro_batch_size_per_gpu` is 6, the recipe says 3",
        "`gradient_accumulation_steps` is 1, the recipe says 2",
    ]


def test_all_contradictions_are_told_at_once_with_both_values() -> None:
    given = {
        "train_batch_size": 64,
        "gradient_clipping": 1.5,
        "steps_per_print": 10,
        "zero_optimization": {
            "stage": 3,
            "offload_optimizer": {"device": "nvme"},
            "reduce_bucket_size": 7,
        },
    }
    assert refusals(given, offload="optimizer") == [
        "`train_batch_size` is 64, the recipe says 12",
        "`gradient_clipping` is 1.5, the recipe says 4.0",
        "`zero_optimization.stage` is 3, the recipe says 2",
        '`zero_optimization.offload_optimizer.device` is "nvme", the recipe says "cpu"',
    ]


def test_contradictions_and_refused_keys_are_told_together() -> None:
    told = refusals(
        {"gradient_clipping": 1.5, "fp16": {"enabled": True}, "aio": {"thread_count": 2}}
    )
    assert [line.split()[0] for line in told] == [
        "`gradient_clipping`",
        "`fp16.enabled`",
        "`aio.thread_count`",
    ]


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("fp16.enabled", True, "parameters and sums stay in fp32"),
        ("bf16.enabled", True, "parameters and sums stay in fp32"),
        ("bfloat16.enabled", True, "parameters and sums stay in fp32"),
        ("amp.opt_level", "O1", "parameters and sums stay in fp32"),
        ("torch_autocast.dtype", "bfloat16", "parameters and sums stay in fp32"),
        ("data_types.grad_accum_dtype", "bf16", "parameters and sums stay in fp32"),
        ("communication_data_type", "fp16", "parameters and sums stay in fp32"),
        ("optimizer.type", "AdamW", "the recipe has its own, with the published clip"),
        ("optimizer.params.lr", 1e-3, "the recipe has its own, with the published clip"),
        (
            "scheduler.params.warmup_num_steps",
            100,
            "the recipe has its own, with the published clip",
        ),
        ("sparse_attention.mode", "fixed", "the recipe's attention is sparse already"),
        (
            "compression_training.weight_quantization.shared_parameters.enabled",
            True,
            "can't be combined with ZeRO",
        ),
        ("zero_optimization.zero_hpz_partition_size", 8, "expect one part for each process"),
        ("zero_optimization.mics_shard_size", 8, "expect one part for each process"),
        ("zero_optimization.round_robin_gradients", True, "expect one part for each process"),
        ("zero_optimization.stage3_module_granularity_threshold", 100, "its backward fails"),
        ("zero_optimization.elastic_checkpoint", True, "expect one part for each process"),
        ("zero_optimization.zero_quantized_weights", True, "not among the keys that tune ZeRO"),
        ("zero_optimization.ignore_unused_parameters", False, "not among the keys that tune ZeRO"),
        ("fp16_master_weights_and_grads", True, "not among the keys that tune ZeRO"),
        ("flops_profiler.enabled", True, "not among the keys that tune ZeRO"),
        ("zero_optimization", True, "not among the keys that tune ZeRO"),
    ],
)
def test_what_would_compute_something_else_is_refused_with_the_reason(
    key: str, value: object, reason: str
) -> None:
    (told,) = refusals(nested(key, value))
    assert told.startswith(f"`{key}` is refused: ") and reason in told


def test_every_key_of_a_refused_section_is_told() -> None:
    optimizer = {"type": "AdamW", "params": {"lr": 1e-3, "betas": [0.9, 0.999], "eps": "auto"}}
    told = [line.split()[0] for line in refusals({"optimizer": optimizer})]
    assert told == ["`optimizer.type`", "`optimizer.params.lr`", "`optimizer.params.betas`"]


@pytest.mark.parametrize("switch", [False, "auto"])
@pytest.mark.parametrize("section", ["fp16", "bf16", "amp", "flops_profiler", "tensorboard"])
def test_section_that_is_off_is_passed_over(section: str, switch: object) -> None:
    assert config_of(
        {section: {"enabled": switch, "loss_scale": 0, "inside": {"of": 3}}}
    ) == config_of({})


def test_section_is_not_passed_over_for_what_is_off_inside_it() -> None:
    section = {"layer_reduction": {"enabled": False}, "weight_quantization": {"groups": 8}}
    told = [line.split()[0] for line in refusals({"compression_training": section})]
    assert told == [
        "`compression_training.layer_reduction.enabled`",
        "`compression_training.weight_quantization.groups`",
    ]


@pytest.mark.parametrize(
    ("stage", "key", "value"),
    [
        (1, "zero_optimization.reduce_bucket_size", 500_000),
        (1, "zero_optimization.allgather_partitions", False),
        (2, "zero_optimization.overlap_comm", True),
        (2, "zero_optimization.offload_optimizer.pin_memory", False),
        (3, "zero_optimization.overlap_comm", False),
        (3, "zero_optimization.stage3_max_live_parameters", 1e9),
        (3, "zero_optimization.stage3_param_persistence_threshold", 0),
        (3, "zero_optimization.offload_param.max_in_cpu", 10_000),
        (3, "steps_per_print", 10),
        (3, "wall_clock_breakdown", True),
    ],
)
def test_tuning_keys_are_taken_over_and_nothing_else_changes(
    stage: int, key: str, value: object
) -> None:
    tuned, expected = config_of(nested(key, value), stage), config_of({}, stage)
    *tables, name = key.split(".")
    inner = expected
    for table in tables:
        inner = inner.setdefault(table, {})
    inner[name] = value
    assert tuned == expected


@pytest.mark.parametrize(
    "key", ["communication_data_type", "prescale_gradients", "gradient_predivide_factor"]
)
def test_file_may_state_what_is_so_anyway(key: str) -> None:
    usual = {
        "communication_data_type": "fp32",
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
    }
    assert config_of({key: usual[key]}) == config_of({})
    assert refusals({key: "fp16"})


@pytest.mark.parametrize("key", ["offload_optimizer", "offload_param"])
def test_file_may_repeat_that_nothing_is_offloaded(key: str) -> None:
    assert config_of({"zero_optimization": {key: {"device": "none"}}}) == config_of({})


def test_offloading_that_the_recipe_does_not_want_is_a_contradiction() -> None:
    (told,) = refusals({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}})
    assert told == '`zero_optimization.offload_optimizer.device` is "cpu", the recipe says "none"'


def test_file_written_for_hugging_faces_trainer_tunes_zero() -> None:
    tuned, plain = (
        config_of(given, 3, offload="parameters") for given in (json.loads(FOR_THE_TRAINER), {})
    )
    zero = plain["zero_optimization"] | {
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
        "offload_param": {"device": "cpu", "pin_memory": True},
        "sub_group_size": 1e9,
        "stage3_max_live_parameters": 1e9,
        "stage3_max_reuse_distance": 1e9,
        "stage3_gather_16bit_weights_on_model_save": True,
    }
    own = {"zero_optimization": zero, "steps_per_print": 2000, "wall_clock_breakdown": False}
    assert tuned == plain | own


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_gradients_that_are_not_contiguous_are_refused(stage: int) -> None:
    (told,) = refusals({"zero_optimization": {"contiguous_gradients": False}}, stage=stage)
    assert told == "`zero_optimization.contiguous_gradients` is false, the recipe says true"


def test_overlap_is_refused_at_stage_1() -> None:
    (told,) = refusals({"zero_optimization": {"overlap_comm": True}}, stage=1)
    assert (
        told.startswith("`zero_optimization.overlap_comm` is refused") and "micro-batches" in told
    )


@pytest.mark.parametrize("value", [False, "auto"])
def test_no_overlap_may_be_said_at_stage_1(value: object) -> None:
    assert config_of({"zero_optimization": {"overlap_comm": value}}, stage=1) == config_of(
        {}, stage=1
    )


def test_file_is_left_as_it_was_read() -> None:
    given = json.loads(FOR_THE_TRAINER)
    config_of(given, 3, offload="parameters")
    assert given == json.loads(FOR_THE_TRAINER)


@pytest.mark.parametrize("content", ["", "{", "stage = 2", "{'stage': 2}"])
def test_file_that_is_no_json_is_wrong_usage(content: str, tmp_path: Path) -> None:
    path = written(tmp_path / "ds.json", content)
    with pytest.raises(UsageError, match=r"can't read .*ds\.json"):
        read_config(path)


@pytest.mark.parametrize("content", ["[]", '[{"train_batch_size": 12}]', "3", '"auto"', "null"])
def test_file_that_holds_no_object_is_wrong_usage(content: str, tmp_path: Path) -> None:
    path = written(tmp_path / "ds.json", content)
    with pytest.raises(UsageError, match=r"ds\.json holds no JSON object"):
        read_config(path)


def test_file_that_is_no_text_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_bytes(b'{"\xff": 1}')
    with pytest.raises(UsageError, match=r"can't read .*ds\.json"):
        read_config(tmp_path / "ds.json")


@pytest.mark.parametrize("name", ["absent.json", "."])
def test_missing_file_and_folder_are_wrong_usage(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't read"):
        read_config(tmp_path / name)


def test_file_of_endless_brackets_is_wrong_usage(tmp_path: Path) -> None:
    path = written(tmp_path / "ds.json", "[" * 100_000)
    with pytest.raises(UsageError, match="can't read"):
        read_config(path)


@pytest.mark.parametrize(
    ("zero", "overrides"),
    [
        ({"stage": 1}, ["runtime.zero_stage=1"]),
        ({"stage": 3}, ["runtime.zero_stage=3"]),
        ({"stage": "auto"}, []),
        ({}, []),
        (
            {"stage": 2, "offload_optimizer": {"device": "cpu"}},
            ["runtime.zero_stage=2", "runtime.offload=optimizer"],
        ),
        (
            {
                "stage": 3,
                "offload_optimizer": {"device": "cpu"},
                "offload_param": {"device": "cpu"},
            },
            ["runtime.zero_stage=3", "runtime.offload=parameters"],
        ),
        ({"stage": 2, "offload_optimizer": {"device": "none"}}, ["runtime.zero_stage=2"]),
        ({"stage": 2, "offload_optimizer": {"device": "auto"}}, ["runtime.zero_stage=2"]),
    ],
)
def test_stage_and_offloading_of_a_file_become_the_recipes(
    zero: dict[str, Any], overrides: list[str], tmp_path: Path
) -> None:
    assert (
        overrides_of(
            written(tmp_path / "ds.json", {"zero_optimization": zero, "train_batch_size": 3})
        )
        == overrides
    )


def test_file_without_zero_has_nothing_for_the_recipe(tmp_path: Path) -> None:
    assert overrides_of(written(tmp_path / "ds.json", {"gradient_clipping": 1.0})) == []
