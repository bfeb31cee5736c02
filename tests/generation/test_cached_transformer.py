"""Decode steps against the whole forward pass: kinds, odd shapes, shared captions, bytes."""

import pytest
import torch
from torch import Tensor, nn

from dalle_cli.generation.cached_transformer import (
    CachedTransformer,
    KVCache,
    distinct_captions,
    kv_cache_bytes,
)
from dalle_cli.models.transformer import Transformer

SHAPES = [
    (5, 4, 3),
    (7, 6, 5),
    (3, 5, 11),
    (4, 1, 3),
    (2, 2, 3),
    (16, 9, 7),
]  # text slots, grid, kernel
VOCABULARY = 13
B = 6


def transformer(text_len: int, grid_size: int, kernel_size: int) -> Transformer:
    torch.manual_seed(0)
    sizes = {"n_layers": 6, "d_model": 16, "n_heads": 2, "kernel_size": kernel_size}
    model = Transformer(11, VOCABULARY, text_len, grid_size, **sizes).requires_grad_(False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def tokens(model: Transformer, n_captions: int) -> tuple[Tensor, Tensor]:
    """Captions of several lengths, each for as many samples in a row, and pictures."""
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(11, (n_captions, model.text_len), generator=generator)
    for row, caption in enumerate(text):
        caption[1 + row % (model.text_len - 1) :] = -1
        caption[0] = row  # no two alike
    return text.repeat_interleave(B // n_captions, 0), torch.randint(
        VOCABULARY, (B, model.image_len), generator=generator
    )


def step_by_step(
    model: Transformer,
    text: Tensor,
    image: Tensor,
    n_read: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Prefill captions and first tokens, step through the rest: logits [B, I - n_read, Vi]."""
    decoder = CachedTransformer(model, dtype)
    captions = distinct_captions(text)
    cache = decoder.new_cache(len(text), len(captions))
    decoder.prefill(captions, image[0, :n_read], cache)
    before = [torch.zeros_like(image[:, 0]), *image.unbind(1)]
    positions = torch.arange(image.shape[1])
    return torch.stack(
        [decoder(before[p], positions[p : p + 1], cache) for p in range(n_read, len(positions))],
        dim=1,
    )


def n_bytes(cache: KVCache) -> int:
    return sum(tensor.nbytes for layer in cache for tensor in layer)


@pytest.mark.parametrize("n_captions", [1, 2, 3, B])
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_those_of_the_whole_at_every_position(
    shape: tuple[int, int, int], n_captions: int
) -> None:
    model = transformer(*shape)
    text, image = tokens(model, n_captions)
    found = step_by_step(model, text, image)
    torch.testing.assert_close(found, model(text, image)[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["row", "column", "convolutional"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_kind_alone_equals_the_whole(shape: tuple[int, int, int], kind: str) -> None:
    model = transformer(*shape)
    model.kinds = [kind] * 6
    text, image = tokens(model, 2)
    found = step_by_step(model, text, image)
    torch.testing.assert_close(found, model(text, image)[1], rtol=1e-5, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["row", "column", "convolutional"])
@pytest.mark.parametrize("shape", SHAPES)
def test_first_tokens_may_be_read_at_once(shape: tuple[int, int, int], kind: str) -> None:
    model = transformer(*shape)
    model.kinds = [kind] * 6
    text, image = tokens(model, 2)
    image = image[:1].expand(B, -1)
    expected = model(text, image)[1]
    for n_read in {1, model.grid_size, model.image_len // 2, model.image_len - 1} - {
        model.image_len
    }:
        found = step_by_step(model, text, image, n_read)
        torch.testing.assert_close(found, expected[:, n_read:], rtol=1e-5, atol=1e-5)


def test_a_step_taken_twice_changes_nothing() -> None:
    model = transformer(5, 4, 3)
    text, image = tokens(model, 2)
    decoder = CachedTransformer(model)
    cache = decoder.new_cache(B, 2)
    decoder.prefill(distinct_captions(text), image[0, :7], cache)
    first, second = (decoder(image[:, 6], torch.tensor([7]), cache) for _ in range(2))
    assert torch.equal(first, second)


def test_captions_that_do_not_come_in_equal_rows_are_read_for_each_sample() -> None:
    model = transformer(5, 4, 3)
    text, image = tokens(model, 3)
    text = text[[0, 0, 0, 2, 4, 4]]
    assert torch.equal(distinct_captions(text), text)
    torch.testing.assert_close(
        step_by_step(model, text, image), model(text, image)[1], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("n_captions", [1, 2, B])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_bytes_held_are_those_reckoned(
    shape: tuple[int, int, int], dtype: torch.dtype, n_captions: int
) -> None:
    model = transformer(*shape)
    assert n_bytes(CachedTransformer(model, dtype).new_cache(B, n_captions)) == kv_cache_bytes(
        model, B, n_captions=n_captions, dtype=dtype
    )


def test_rings_hold_no_more_than_the_masks_reach() -> None:
    """Of 1,024 image slots, a row layer needs 33, a kernel of 11 needs 166."""
    with torch.device("meta"):
        model = Transformer(11, 13, 8, 32, n_layers=2, d_model=16, n_heads=2, kernel_size=11)
    slots = {}
    for kind in ("row", "column", "convolutional"):
        model.kinds = [kind]
        slots[kind] = kv_cache_bytes(model, 1, n_captions=0) // (2 * 16 * 4)
    assert slots == {"row": 33, "column": 1024, "convolutional": 166}


def test_logits_in_bf16_are_near_and_fp32() -> None:
    model = transformer(7, 6, 5)
    text, image = tokens(model, 2)
    found, expected = step_by_step(model, text, image, dtype=torch.bfloat16), model(text, image)[1]
    assert found.dtype == torch.float32
    assert 1e-4 < float((found - expected).norm() / expected.norm()) < 0.03


def test_decoder_leaves_the_callers_tokens_alone() -> None:
    model = transformer(5, 4, 3)
    text, image = tokens(model, 2)
    before = text.clone(), image.clone()
    step_by_step(model, text, image)
    assert torch.equal(text, before[0]) and torch.equal(image, before[1])
