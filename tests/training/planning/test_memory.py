"""Estimates of memory against measurements; those of several processes are with their tests."""

import pytest
import torch
from torch import Tensor

from dalle_cli.config import TrainedTransformerTable
from dalle_cli.loading import build_transformer
from dalle_cli.runtime.precision import apply_precision
from dalle_cli.training.activation_checkpointing import checkpoint_activations
from dalle_cli.training.planning.memory import activation_bytes, state_bytes

SIZES = TrainedTransformerTable(
    text_vocab_size=50,
    image_vocab_size=40,
    text_len=6,
    grid_size=4,
    n_layers=3,
    d_model=32,
    n_heads=2,
    kernel_size=3,
)


def bytes_kept(
    precision: str, is_recomputed: bool, n_samples: int, *, n_layers: int = SIZES.n_layers
) -> int:
    """Count the bytes of all storages that autograd keeps, parameters apart."""
    sizes = SIZES.model_copy(update={"n_layers": n_layers})
    model = build_transformer(sizes, SIZES.text_vocab_size)
    apply_precision(model, precision, torch.device("cpu"))
    if is_recomputed:
        checkpoint_activations(model.half_precision_modules())
    own = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        zeros = torch.zeros(n_samples, 16, dtype=torch.long)
        features = model.features(zeros[:, :6], zeros)
    assert len(features) == 2
    return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in own)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("is_recomputed", [False, True])
def test_activations_estimated_are_those_kept(precision: str, is_recomputed: bool) -> None:
    kept = [bytes_kept(precision, is_recomputed, n_samples) for n_samples in (2, 3)]
    estimated = activation_bytes(SIZES, precision, recomputed=is_recomputed)
    assert estimated == pytest.approx(kept[1] - kept[0], rel=0.05)


@pytest.mark.parametrize("is_recomputed", [False, True])
def test_activations_of_many_layers_are_estimated_from_two(is_recomputed: bool) -> None:
    many = SIZES.model_copy(update={"n_layers": 9})
    kept = [bytes_kept("fp32", is_recomputed, n_samples, n_layers=9) for n_samples in (2, 3)]
    assert activation_bytes(many, "fp32", recomputed=is_recomputed) == kept[1] - kept[0]


def test_recomputed_activations_are_fewer() -> None:
    kept = activation_bytes(SIZES, "fp32", recomputed=False)
    assert activation_bytes(SIZES, "fp32", recomputed=True) < 0.3 * kept


def test_higher_stages_and_more_processes_hold_less() -> None:
    by_stage = [state_bytes(stage, 10**9, 10**6, 8) for stage in range(4)]
    assert by_stage == sorted(by_stage, reverse=True)
    assert state_bytes(3, 10**9, 10**6, 64) < by_stage[3]
    assert state_bytes(2, 10**9, 10**6, 8, has_average=False) == by_stage[2] - 4 * 10**9 // 8
