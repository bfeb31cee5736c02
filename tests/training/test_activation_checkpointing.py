"""Branches computed again in backward: the same to the last bit, and less kept."""

import pytest
import torch
from torch import Tensor

from dalle_cli.losses import text_image_cross_entropy
from dalle_cli.models.transformer import Transformer
from dalle_cli.runtime.precision import apply_precision
from dalle_cli.training.activation_checkpointing import checkpoint_activations
from dalle_cli.training.optimization.gradient_scaling import scale_gradients

CPU = torch.device("cpu")


def transformer(precision: str, is_recomputed: bool) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(
        11, 13, text_len=5, grid_size=4, n_layers=4, d_model=16, n_heads=2, kernel_size=3
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    if precision == "fp16":
        scale_gradients(model.half_precision_modules(), 1, CPU)
    else:
        apply_precision(model, precision, CPU)
    if is_recomputed:
        checkpoint_activations(model.half_precision_modules())
    return model


def backward(model: Transformer) -> tuple[Tensor, int]:
    """Give the gradients as one vector, and how many bytes autograd kept for them."""
    text = torch.tensor([[1, 2, -1, -1, -1], [4, 5, 6, 7, -1]])
    image = torch.arange(32).view(2, 16) % 13
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = text_image_cross_entropy(*model(text, image), text_tokens=text, image_tokens=image)
    n_bytes = sum(kept.values())
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()]), n_bytes


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_recomputed_branches_give_the_same_gradients_and_keep_less(precision: str) -> None:
    (plain, plain_bytes), (recomputed, bytes_kept) = (
        backward(transformer(precision, again)) for again in (False, True)
    )
    assert torch.equal(plain, recomputed)
    assert bytes_kept < 0.6 * plain_bytes


def test_names_of_parameters_stay() -> None:
    names = [
        [name for name, _ in transformer("bf16", again).named_parameters()]
        for again in (False, True)
    ]
    assert names[0] == names[1]
