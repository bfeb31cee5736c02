"""Every tensor of a model and of its loss is where the inputs are.

On the meta device, which has shapes and no values: whatever is made on a CPU meanwhile is refused
as on a GPU, and so is a value that the host would have to wait for.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dalle_cli.loading import build_clip, build_dvae, trained_clip_table
from dalle_cli.losses import (
    contrastive_loss,
    kl_to_uniform,
    logit_laplace_nll,
    token_cross_entropy,
)
from dalle_cli.models.clip import Clip
from dalle_cli.models.dvae import DiscreteVAE, map_pixels, relax
from dalle_cli.models.transformer import Transformer
from dalle_cli.recipe import load_recipe

META = torch.device("meta")


def tokens(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64, device=META)


def transformer() -> Transformer:
    return Transformer(11, 13, 5, 4, n_layers=4, d_model=32, n_heads=2, kernel_size=3)


def transformer_loss(model: Transformer) -> Tensor:
    text, image = tokens(2, model.text_len), tokens(2, model.image_len)
    logits = model(text, image)
    return sum(
        token_cross_entropy(part, targets, count=targets.numel())
        for part, targets in zip(logits, (text, image), strict=True)
    )


def dvae() -> DiscreteVAE:
    return build_dvae(load_recipe("dvae/tiny", []).model)


def dvae_loss(model: DiscreteVAE) -> Tensor:
    images = torch.zeros(2, 3, 32, 32, device=META)
    logits = model.codebook_logits(images)
    relaxed = relax(logits, 0.5, torch.zeros_like(logits))
    likelihood = logit_laplace_nll(map_pixels(images), *model.decode_soft(relaxed))
    assert model.decode(model.image_tokens(images)).device == META
    return likelihood.sum() + kl_to_uniform(logits).sum()


def clip() -> Clip:
    return build_clip(trained_clip_table(load_recipe("clip/tiny", []).model, 300))


def clip_loss(model: Clip) -> Tensor:
    pixels = torch.zeros(2, 3, model.image_size, model.image_size, device=META)
    logits, _ = model(model.normalise(pixels), tokens(2, model.text_len))
    return contrastive_loss(logits)


@pytest.mark.parametrize(
    ("build", "loss_of"),
    [(transformer, transformer_loss), (dvae, dvae_loss), (clip, clip_loss)],
)
def test_forward_and_backward_stay_on_the_device_of_the_model(
    build: Callable[[], nn.Module], loss_of: Callable[[nn.Module], Tensor]
) -> None:
    model = build().to(META)
    loss = loss_of(model)
    loss.backward()
    assert loss.device == META
    assert all(p.grad is not None and p.grad.device == META for p in model.parameters())


def test_mask_on_another_device_is_noticed() -> None:
    """The test of the test above."""
    model = transformer()
    model.to(META)
    model.row_mask = torch.ones(model.row_mask.shape, dtype=torch.bool)
    with pytest.raises(RuntimeError, match="not on the expected device"):
        transformer_loss(model)
