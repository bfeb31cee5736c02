"""Captions as context: padding, published sizes, and what slots may see."""

import pytest
import torch
from random_models import LENGTHS, T, caption_encoder, captions_of, randomised

from dalle_cli.models.unclip.caption_encoders import CaptionInputs, TokenCaptions


@pytest.mark.parametrize("kind", ["tokens", "states"])
def test_values_where_there_is_no_token_do_not_matter(kind: str) -> None:
    encoder, captions = randomised(caption_encoder(kind)), captions_of(kind)
    before = encoder(captions)
    changed = captions.values.clone()
    changed[~captions.is_given] += 1 if kind == "states" else 1_000_000
    assert torch.equal(encoder(CaptionInputs(changed, captions.is_given)), before)


def test_states_are_projected_and_normalised_and_padding_is_learned() -> None:
    encoder, captions = randomised(caption_encoder("states")), captions_of("states")
    context = encoder(captions)
    for row, length in enumerate(LENGTHS):
        slots = encoder.norm(encoder.input(captions.values[row, :length]))
        torch.testing.assert_close(context[row, :length], slots)
        torch.testing.assert_close(context[row, length:], encoder.padding[length:])


def test_every_slot_of_tokens_sees_every_other() -> None:
    """It is not causal, and padding is attended to."""
    encoder, captions = randomised(caption_encoder("tokens")), captions_of("tokens")
    before = encoder(captions)
    for slot in range(T):
        changed = captions.values.clone()
        changed[1, slot] = (changed[1, slot] + 1) % 11
        difference = (encoder(CaptionInputs(changed, captions.is_given)) - before).abs()
        assert (difference[1].amax(dim=1) > 1e-4).all()
        assert difference[[0, 2]].max() == 0
    shorter = captions.is_given.clone()
    shorter[1, -1] = False
    assert (encoder(CaptionInputs(captions.values, shorter)) - before)[1, 0].abs().max() > 1e-4


def test_text_transformer_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        encoder = TokenCaptions(49408, 256, n_layers=24, d_model=2048, n_heads=32)
    count = sum(parameter.numel() for parameter in encoder.transformer.parameters())
    assert count == 1_208_598_528


def test_rows_are_repeated_next_to_each_other_or_as_a_whole() -> None:
    captions = CaptionInputs(torch.tensor([[1], [2]]), torch.tensor([[True], [False]]))
    assert captions.repeated(2).values.flatten().tolist() == [1, 1, 2, 2]
    assert captions.twice().values.flatten().tolist() == [1, 2, 1, 2]
    assert captions.twice().is_given.flatten().tolist() == [True, False, True, False]


def test_another_number_of_slots_is_refused() -> None:
    encoder, captions = randomised(caption_encoder("states")), captions_of("states")
    short = CaptionInputs(captions.values[:, :-1], captions.is_given[:, :-1])
    with pytest.raises(ValueError, match="expected 5 text slots, got 4"):
        encoder(short)


@pytest.mark.parametrize("kind", ["states", "tokens"])
def test_no_captions_are_captions_without_tokens(kind: str) -> None:
    encoder, given = randomised(caption_encoder(kind)), captions_of(kind)
    none = encoder.no_captions(3, torch.device("cpu"))
    assert none.values.dtype == given.values.dtype and none.values.shape == given.values.shape
    left_out = CaptionInputs(given.values, torch.zeros_like(given.is_given))
    assert torch.equal(encoder(none), encoder(left_out))
