"""Attention on the GPU: flex computes what dense attention does, and so do its gradients."""

from collections.abc import Callable

import pytest
import torch
from test_models_on_gpu import relative_error
from torch import Tensor

from dalle_cli.config import TransformerModelTable
from dalle_cli.runtime.compilation import has_compiler
from dalle_cli.runtime.precision import Precision, apply_precision
from dalle_cli.training.activation_checkpointing import checkpoint_activations
from dalle_cli.training.attention_backend import choose_attention_backend, set_attention_backend
from dalle_cli.training.tasks.fused_losses import build_fused_transformer

pytestmark = pytest.mark.gpu

# slots that are no multiple of flex's blocks, and more than `attend` computes without them
TABLE = TransformerModelTable(
    text_len=70, grid_size=16, image_vocab_size=32, n_layers=4, d_model=128, n_heads=2,
    kernel_size=5,
)  # fmt: skip
WORDS = 50
WITHIN = {"fp32": 2e-4, "bf16": 0.03}  # of the gradients' norm


def computed(
    backend: str, precision: Precision, device: torch.device, *, n_samples: int, recomputed: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the features and the gradients of a transformer with all kinds of layers."""
    torch.manual_seed(0)
    model = build_fused_transformer(TABLE, WORDS)
    for head in (model.text_head, model.image_head):
        head.reset_parameters()
    model.kinds = ["row", "column", "row", "convolutional"]
    text = torch.randint(WORDS, (n_samples, TABLE.text_len))
    text[0, 40:] = -1
    image = torch.randint(TABLE.image_vocab_size, (n_samples, TABLE.grid_size**2))

    set_attention_backend(backend, model.to(device), device=device)
    apply_precision(model, precision, device)
    if recomputed:
        checkpoint_activations(model.half_precision_modules())
    text, image = text.to(device), image.to(device)
    with torch.no_grad():
        features = model.features(text, image)
    text_loss, image_loss, _ = model(text, image)
    (text_loss + image_loss).backward()
    return list(features), [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("precision", "n_samples", "recomputed"),
    [("fp32", 2, False), ("bf16", 3, False), ("bf16", 3, True)],
)
def test_sparse_attention_computes_what_dense_attention_does(
    precision: Precision,
    n_samples: int,
    recomputed: bool,
    device: torch.device,
    measured: Callable,
) -> None:
    if not has_compiler(device):
        pytest.skip("nothing can compile flex attention: it needs Triton and a C compiler")
    torch.manual_seed(0)
    model = build_fused_transformer(TABLE, WORDS)
    backend = choose_attention_backend("auto", model, device)
    assert backend == ("flex" if device.type == "cuda" else "sparse")

    sizes = {"n_samples": n_samples, "recomputed": recomputed}
    found = computed(backend, precision, device, **sizes)
    expected = computed("dense", precision, device, **sizes)
    for what, ours, theirs in zip(("features", "gradients"), found, expected, strict=True):
        measured(what, relative_error(ours, theirs), most=WITHIN[precision])
