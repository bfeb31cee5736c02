"""DeepSpeed's configuration: the recipe's demands, merged with a file of the user's.

The recipe decides wherever both have a key. A file may repeat the recipe's value, or write "auto",
and may tune how ZeRO works; keys that would compute something other than the recipe are refused.
Imports neither torch nor DeepSpeed.
"""

import json
from pathlib import Path
from typing import Any

from dalle_cli.config import DecoderRecipe, TransformerRecipe, UnclipRecipe
from dalle_cli.errors import UsageError
from dalle_cli.recipe import flat_tables
from dalle_cli.storage.small_files import read_input

Json = dict[str, Any]
ZeroRecipe = TransformerRecipe | UnclipRecipe  # whose models may be partitioned

AUTO = "auto"
SIXTEEN_BIT = (
    "`runtime.precision` makes the branches compute in 16 bits; parameters and sums stay in fp32"
)
RECIPE_HAS_IT = "the recipe has its own, with the published clip"
SHARDS = "checkpoints read every process's part from memory, and expect one part for each process"
OFFLOADED = {"parameters": "offload_param", "optimizer": "offload_optimizer"}
DEFAULTS: Json = {f"zero_optimization.{key}.device": "none" for key in OFFLOADED.values()}
DEFAULTS |= {
    "communication_data_type": "fp32",
    "prescale_gradients": False,
    "gradient_predivide_factor": 1.0,
}
REFUSED = {
    "fp16": SIXTEEN_BIT,
    "bf16": SIXTEEN_BIT,
    "bfloat16": SIXTEEN_BIT,
    "amp": SIXTEEN_BIT,
    "torch_autocast": SIXTEEN_BIT,
    "data_types": SIXTEEN_BIT,
    "communication_data_type": SIXTEEN_BIT,
    "optimizer": RECIPE_HAS_IT,
    "scheduler": RECIPE_HAS_IT,
    "sparse_attention": "its kernels are for torch 1; the recipe's attention is sparse already",
    "compression_training": "it can't be combined with ZeRO",
    "zero_optimization.zero_hpz_partition_size": SHARDS,
    "zero_optimization.mics_shard_size": SHARDS,
    "zero_optimization.elastic_checkpoint": SHARDS,
    "zero_optimization.round_robin_gradients": SHARDS,
    "zero_optimization.stage3_module_granularity_threshold": (
        "its backward fails with activation checkpointing"
    ),
}
TUNING = {  # what a file may set freely
    "steps_per_print", "wall_clock_breakdown",
    "zero_optimization.reduce_bucket_size", "zero_optimization.allgather_bucket_size",
    "zero_optimization.allgather_partitions", "zero_optimization.overlap_comm",
    "zero_optimization.sub_group_size",
    "zero_optimization.stage3_prefetch_bucket_size",
    "zero_optimization.stage3_max_live_parameters", "zero_optimization.stage3_max_reuse_distance",
    "zero_optimization.stage3_param_persistence_threshold",
    "zero_optimization.stage3_gather_16bit_weights_on_model_save",
    "zero_optimization.offload_optimizer.pin_memory", "zero_optimization.offload_param.pin_memory",
    "zero_optimization.offload_param.buffer_count", "zero_optimization.offload_param.buffer_size",
    "zero_optimization.offload_param.max_in_cpu",
}  # fmt: skip


def read_config(path: Path) -> Json:
    """Read a DeepSpeed file; raises UsageError where it can't be read or holds no JSON object."""
    try:
        found = json.loads(read_input(path))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"can't read {path}: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds no JSON object")
    return found


def overrides_of(path: Path) -> list[str]:
    """Return a file's values for keys of the recipe: the stage, and what is offloaded."""
    given = flat_tables(read_config(path))
    stage = given.get("zero_optimization.stage", AUTO)
    offloaded = [
        what
        for what, key in OFFLOADED.items()
        if given.get(f"zero_optimization.{key}.device") == "cpu"
    ]
    overrides = [] if stage == AUTO else [f"runtime.zero_stage={stage}"]
    return overrides + [f"runtime.offload={what}" for what in offloaded[:1]]


def zero_config(recipe: ZeroRecipe, n_processes: int, *, bucket: int, given: Json) -> Json:
    """Return the configuration of a recipe's ZeRO stage, tuned by a file.

    bucket  the number of values to gather or to sum at once: those of the largest layer
    given   the file's content

    Raises UsageError listing all keys that contradict the recipe, with both values, and all that
    are refused, with the reason.
    """
    config = _recipe_config(recipe, n_processes, bucket)
    expected = DEFAULTS | flat_tables(config) | _batch_sizes(recipe, n_processes)
    in_use = flat_tables({name: section for name, section in given.items() if not _is_off(section)})

    problems = []
    for key, value in in_use.items():
        if value in (None, AUTO) or value == expected.get(key):
            continue
        if key in TUNING:
            _put(config, key, value)
        elif key in expected and key not in REFUSED:
            problems.append(
                f"`{key}` is {json.dumps(value)}, the recipe says {json.dumps(expected[key])}"
            )
        else:
            problems.append(f"`{key}` is refused: {_reason_against(key)}")

    if config["zero_optimization"]["overlap_comm"] and recipe.runtime.zero_stage == 1:
        reason = "at stage 1 micro-batches would not be summed"
        problems.append(f"`zero_optimization.overlap_comm` is refused: {reason}")
    if problems:
        lines = ["the DeepSpeed file does not fit the recipe:", *(f"  {p}" for p in problems)]
        raise UsageError("\n".join(lines))
    return config


def _is_off(section: Any) -> bool:
    return isinstance(section, dict) and section.get("enabled") in (False, AUTO)


def _reason_against(key: str) -> str:
    reasons = (reason for name, reason in REFUSED.items() if f"{key}.".startswith(f"{name}."))
    return next(reasons, "it is not among the keys that tune ZeRO")


def _recipe_config(recipe: ZeroRecipe, n_processes: int, bucket: int) -> Json:
    """Return the recipe's settings under DeepSpeed's keys.

    The loop counts micro-batches: to DeepSpeed, everything before an update is a single one.
    Gradients must be contiguous: otherwise ZeRO 1 and 2 have been seen not to sum them on CPUs.
    ZeRO 3's linear layer would round a 16-bit bias twice, so that stages would differ.
    """
    runtime = recipe.runtime
    share = recipe.training.global_batch_size // n_processes

    zero: Json = {
        "stage": runtime.zero_stage,
        "contiguous_gradients": True,
        "reduce_scatter": True,
        "overlap_comm": runtime.zero_stage == 3,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    if runtime.zero_stage == 3:
        zero |= {
            # values updated at once; the default is so large that temporaries would show
            "sub_group_size": bucket,
            "stage3_prefetch_bucket_size": bucket,
            "stage3_max_live_parameters": 2 * bucket,
            "stage3_max_reuse_distance": 2 * bucket,
            "stage3_param_persistence_threshold": 4 * _width(recipe),  # vectors stay whole
            "memory_efficient_linear": False,
        }

    if runtime.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
    if runtime.offload == "parameters":
        zero["offload_param"] = {"device": "cpu"}

    return {
        "train_batch_size": recipe.training.global_batch_size,
        "train_micro_batch_size_per_gpu": share,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": recipe.optimizer.clip_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
        "steps_per_print": 2**62,
    }


def _width(recipe: ZeroRecipe) -> int:
    """Return the width of a model, the largest of a U-Net's."""
    if isinstance(recipe, DecoderRecipe):
        return recipe.model.unet.channels * max(recipe.model.unet.multiples)
    return recipe.model.d_model


def _batch_sizes(recipe: ZeroRecipe, n_processes: int) -> Json:
    """Return the loop's micro-batch numbers, as a file would state them."""
    share = recipe.training.global_batch_size // n_processes
    micro = recipe.runtime.micro_batch_size or share
    return {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": -(-share // micro),
    }


def _put(config: Json, key: str, value: Any) -> None:
    *tables, name = key.split(".")
    for table in tables:
        config = config.setdefault(table, {})
    config[name] = value
