"""The arithmetic and memory that a transformer takes, for `dalle info`."""

from typing import Any

from dalle_cli.config import TrainedTransformerTable
from dalle_cli.generation.cached_transformer import kv_cache_bytes
from dalle_cli.models.transformer import Transformer
from dalle_cli.runtime.devices import choose_device
from dalle_cli.runtime.peak_rates import stored_write_rate
from dalle_cli.runtime.precision import Precision
from dalle_cli.training.planning.flops import forward_flops, train_flops
from dalle_cli.training.planning.memory import (
    FP32,
    activation_bytes,
    checkpoint_bytes,
    deepspeed_bf16_bytes,
    largest_layer,
    state_bytes,
)

GPU_COUNTS = (8, 64, 1024)


def transformer_cost(table: TrainedTransformerTable, transformer: Transformer) -> dict[str, Any]:
    """Return the FLOPs of an image, and the sizes of weights, KV cache and training state.

    The training state is that of moments in fp32.
    """
    n_parameters = sum(parameter.numel() for parameter in transformer.parameters())

    return {
        "tflop_per_image": {
            "forward": significant(forward_flops(table) / 1e12),
            "training": significant(train_flops(table) / 1e12),
        },
        "weights_mib": in_mib(FP32 * n_parameters),
        "cache_mib": {
            "of each caption": in_mib(kv_cache_bytes(transformer, n_samples=0, n_captions=1)),
            "of each sample": in_mib(kv_cache_bytes(transformer, n_samples=1, n_captions=0)),
        },
        **_activation_facts(table),
        **state_facts(n_parameters, largest_layer(transformer)),
    }


def _checkpoint_facts(n_bytes: int) -> dict[str, float]:
    """Return a checkpoint's size, and how long a process writes it if that rate was measured."""
    facts = {"checkpoint_gib": in_gib(n_bytes)}
    rate = stored_write_rate(choose_device("auto"))
    if rate is not None:
        facts["checkpoint_seconds_by_one_process"] = significant(n_bytes / rate)
    return facts


def _activation_facts(table: TrainedTransformerTable) -> dict[str, Any]:
    def gib(precision: Precision, *, recomputed: bool) -> float:
        return in_gib(activation_bytes(table, precision, recomputed=recomputed))

    return {
        "activations_gib_per_sample": {
            "fp32": gib("fp32", recomputed=False),
            "fp32, recomputed": gib("fp32", recomputed=True),
            "bf16": gib("bf16", recomputed=False),
            "bf16, recomputed": gib("bf16", recomputed=True),
        }
    }


def state_facts(n_parameters: int, largest: int, *, n_in_16_bits: int = 0) -> dict[str, Any]:
    """Return the size of a checkpoint, and what training keeps between steps on each GPU.

    largest       values of the largest layer
    n_in_16_bits  the parameters whose moments are in 16 bits
    """

    def gib(zero_stage: int, n: int) -> float:
        return in_gib(
            state_bytes(
                zero_stage,
                n_parameters,
                largest=largest,
                n_processes=n,
                n_in_16_bits=n_in_16_bits,
            )
        )

    def deepspeed_bf16_gib(n: int) -> float:
        return in_gib(deepspeed_bf16_bytes(n_parameters, largest, n_processes=n))

    return {
        **_checkpoint_facts(checkpoint_bytes(n_parameters, n_in_16_bits)),
        "state_gib_per_gpu_of_8": {
            "whole replicas": gib(0, 8),
            **{f"ZeRO {stage}": gib(stage, 8) for stage in (1, 2, 3)},
        },
        "zero3_state_gib_per_gpu": {f"{n:,} GPUs": gib(3, n) for n in GPU_COUNTS},
        "deepspeed_bf16_gib_per_gpu": {f"{n:,} GPUs": deepspeed_bf16_gib(n) for n in GPU_COUNTS},
    }


def significant(value: float) -> float:
    """Round a number to four digits."""
    return float(f"{value:.4g}")


def in_mib(n_bytes: int) -> float:
    """Return bytes in MiB, to four digits."""
    return significant(n_bytes / 2**20)


def in_gib(n_bytes: float) -> float:
    """Return bytes in GiB, to four digits."""
    return significant(n_bytes / 2**30)
