"""Guided drawing slot by slot against two whole forward passes, and what it holds."""

import pytest
import torch
from torch import Tensor, nn

from dalle_cli.generation.cached_transformer import (
    CachedTransformer,
    distinct_captions,
    kv_cache_bytes,
)
from dalle_cli.generation.guidance import GuidedTransformer
from dalle_cli.models.transformer import Transformer

V_IMAGE, B = 13, 6


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(
        11, V_IMAGE, 7, 6, n_layers=6, d_model=16, n_heads=2, kernel_size=5
    ).requires_grad_(False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def captions(model: Transformer, rows: list[int]) -> Tensor:
    """One caption for each row, the same for the same number; 0 is the empty one."""
    text = torch.randint(
        11, (max(rows) + 1, model.text_len), generator=torch.Generator().manual_seed(1)
    )
    for number, caption in enumerate(text):
        caption[number % model.text_len :] = -1
    return text[rows]


ROWS = {
    "one": [1] * B,
    "two": [1, 1, 1, 2, 2, 2],
    "all different": [1, 2, 3, 4, 5, 6],
    "unequal rows": [1, 2, 2, 2, 3, 3],
    "one of them empty": [0, 0, 0, 2, 2, 2],
    "all empty": [0] * B,
}


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_logits_are_led_away_from_those_of_no_caption(
    model: Transformer, rows: list[int], guidance: float
) -> None:
    text = captions(model, rows)
    image = torch.randint(V_IMAGE, (B, model.image_len), generator=torch.Generator().manual_seed(2))
    before = text.clone(), image.clone()
    decoder = GuidedTransformer(CachedTransformer(model), guidance)
    given = distinct_captions(text)
    cache = decoder.new_cache(B, len(given))
    decoder.prefill(given, image[0, :0], cache)
    tokens = [torch.zeros_like(image[:, 0]), *image.unbind(1)]
    positions = torch.arange(model.image_len)
    found = torch.stack([decoder(tokens[p], positions[p : p + 1], cache) for p in positions], dim=1)
    told, untold = model(text, image)[1], model(torch.full_like(text, -1), image)[1]
    torch.testing.assert_close(found, untold + guidance * (told - untold), rtol=1e-5, atol=5e-5)
    assert torch.equal(text, before[0]) and torch.equal(image, before[1])


@pytest.mark.parametrize(("name", "n_captions"), [("one", 2), ("two", 4), ("all different", 12)])
def test_samples_share_the_text_of_their_caption_and_of_the_empty_one(
    model: Transformer, name: str, n_captions: int
) -> None:
    given = distinct_captions(captions(model, ROWS[name]))
    cache = GuidedTransformer(CachedTransformer(model), 2.0).new_cache(B, len(given))
    assert sum(tensor.nbytes for layer in cache for tensor in layer) == kv_cache_bytes(
        model, 2 * B, n_captions=n_captions
    )
