"""Names and arguments that other programs rely on.

A rename or a keyword-only argument would break them.
"""

import inspect

import pytest

from dalle_cli import loading, losses
from dalle_cli.models import attention_masks
from dalle_cli.models.clip import Clip
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.models.transformer import Transformer

SIGNATURES = [
    (attention_masks.attention_mask, ["kind", "text_len", "grid_size", "kernel_size"]),
    (attention_masks.layer_kinds, ["n_layers"]),
    (DiscreteVAE.codebook_logits, ["self", "images"]),
    (DiscreteVAE.image_tokens, ["self", "images"]),
    (DiscreteVAE.decode, ["self", "image_tokens"]),
    (DiscreteVAE.decode_soft, ["self", "relaxed"]),
    (Transformer.forward, ["self", "text_tokens", "image_tokens"]),
    (Clip.encode_image, ["self", "pixels"]),
    (Clip.encode_text, ["self", "tokens"]),
    (losses.logit_laplace_nll, ["mapped", "mu", "log_scale"]),
    (losses.kl_to_uniform, ["logits"]),
    (
        losses.text_image_cross_entropy,
        ["text_logits", "image_logits", "text_tokens", "image_tokens", "text_weight"],
    ),
    (losses.contrastive_loss, ["logits_per_image"]),
    (loading.load_dvae, ["path"]),
    (loading.load_transformer, ["path"]),
    (loading.load_clip, ["path"]),
]


@pytest.mark.parametrize(
    ("function", "names"), SIGNATURES, ids=[function.__qualname__ for function, _ in SIGNATURES]
)
def test_arguments_keep_their_names_and_may_be_positional(function, names: list[str]) -> None:
    parameters = inspect.signature(function).parameters
    assert list(parameters) == names
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert {parameter.kind for parameter in parameters.values()} == {positional}
