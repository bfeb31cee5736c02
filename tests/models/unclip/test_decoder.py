"""The decoder: which condition reaches a picture, and what is left of one that is left out."""

import pytest
import torch
from random_models import W, captions_of, decoder, embeddings, flags
from torch import Tensor

from dalle_cli.models.unclip.caption_encoders import CaptionInputs
from dalle_cli.models.unclip.decoder import UnclipDecoder, choose_dropped, decoder_net

KINDS = ["tokens", "states", "none"]
NONE, ALL = flags(False, False, False), flags(True, True, True)
STEPS = torch.tensor([2, 500, 999])


@pytest.fixture
def noisy() -> Tensor:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(9))


def predict(
    model: UnclipDecoder,
    noisy: Tensor,
    kind: str,
    *,
    seeds: tuple[int, int] = (1, 2),
    dropped: tuple[Tensor, Tensor] = (NONE, NONE),
) -> Tensor:
    """Predict from an embedding and captions of two seeds."""
    return model(noisy, STEPS, embeddings(seeds[0]), captions_of(kind, seeds[1]), *dropped)


@pytest.mark.parametrize("kind", KINDS)
def test_prediction_depends_on_every_condition(noisy: Tensor, kind: str) -> None:
    model = decoder(kind)
    before = predict(model, noisy, kind)
    assert before.shape == (3, 6, 8, 8)
    by_embedding = (predict(model, noisy, kind, seeds=(5, 2)) - before).abs()
    assert (by_embedding.amax(dim=(1, 2, 3)) > 1e-3).all()
    if kind != "none":
        by_caption = (predict(model, noisy, kind, seeds=(1, 6)) - before).abs()
        assert (by_caption.amax(dim=(1, 2, 3)) > 1e-4).all()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_of_a_dropped_embedding(noisy: Tensor, kind: str) -> None:
    model = decoder(kind)
    dropped = (flags(False, True, True), NONE)
    first = predict(model, noisy, kind, dropped=dropped)
    second = predict(model, noisy, kind, seeds=(5, 2), dropped=dropped)
    torch.testing.assert_close(second[1:], first[1:])
    assert (second - first)[0].abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["tokens", "states"])
def test_nothing_is_left_of_a_dropped_caption(noisy: Tensor, kind: str) -> None:
    model = decoder(kind)
    dropped = (NONE, flags(True, True, False))
    first = predict(model, noisy, kind, dropped=dropped)
    second = predict(model, noisy, kind, seeds=(1, 6), dropped=dropped)
    torch.testing.assert_close(second[:2], first[:2])
    assert (second - first)[2].abs().max() > 1e-4


def test_embedding_reaches_the_vector_and_four_slots_of_context() -> None:
    model = decoder("none")
    condition, other = (
        model.condition(embeddings(seed), None, is_embedding_dropped=NONE, is_caption_dropped=NONE)
        for seed in (1, 5)
    )
    assert condition.context.shape == (3, 4, W)
    assert (condition.vector - other.vector).abs().amax(dim=1).min() > 1e-3
    assert (condition.context - other.context).abs().amax(dim=2).min() > 1e-4


def test_captions_follow_the_embeddings_slots_and_the_last_slot_sums_tokens_up() -> None:
    model, captions = decoder("tokens"), captions_of("tokens")
    condition = model.condition(
        embeddings(1), captions, is_embedding_dropped=ALL, is_caption_dropped=NONE
    )
    text = model.captions(captions)
    torch.testing.assert_close(condition.context[:, 4:], text)
    expected = model.embedding_vector(model.null_embedding) + model.summary_vector(text[:, -1])
    torch.testing.assert_close(condition.vector, expected)


def test_length_of_an_embedding_does_not_matter(noisy: Tensor) -> None:
    model = decoder("none")
    long = model(noisy, STEPS, 20 * embeddings(1), None, NONE, NONE)
    torch.testing.assert_close(long, predict(model, noisy, "none"), rtol=1e-5, atol=1e-5)


def test_null_embedding_starts_at_zero_and_learns() -> None:
    model = UnclipDecoder(
        decoder("none").unet.sizes,
        patch_size=1,
        d_embed=6,
        d_context=W,
        embedding_rms=1.0,
        learns_variance=False,
        captions=None,
    )
    assert not model.null_embedding.any()
    trained = decoder("none").requires_grad_(True)
    noisy = torch.zeros(3, 3, 8, 8)
    trained(noisy, STEPS, embeddings(1), None, ALL, NONE).square().sum().backward()
    assert trained.null_embedding.grad.abs().max() > 0


@pytest.mark.parametrize("learns_variance", [True, False])
def test_patches_become_channels_and_pictures_again(learns_variance: bool) -> None:
    model = decoder("none", patch_size=2, learns_variance=learns_variance)
    noisy = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    n_channels = 6 if learns_variance else 3
    assert model.image_size == 16
    assert predict(model, noisy, "none").shape == (3, n_channels, 16, 16)

    # a network that returns its input, and zeros for variances, keeps every pixel in its place
    model.unet.forward = lambda x, *conditions: torch.cat(
        [x, torch.zeros_like(x)] if learns_variance else [x], dim=1
    )
    found = predict(model, noisy, "none")
    assert torch.equal(found[:, :3], noisy) and not found[:, 3:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_guided_decoder_is_led_away_from_neither_condition(noisy: Tensor, kind: str) -> None:
    model = decoder(kind)
    net = decoder_net(model, embeddings(1), captions_of(kind, 2), guidance=3.0)
    both = predict(model, noisy, kind)
    neither = predict(model, noisy, kind, dropped=(ALL, ALL))
    found = net(noisy, STEPS)
    torch.testing.assert_close(
        found[:, :3], (neither + 3 * (both - neither))[:, :3], rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(found[:, 3:], both[:, 3:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_of_one_is_one_prediction_with_conditions(noisy: Tensor, kind: str) -> None:
    model = decoder(kind)
    net = decoder_net(model, embeddings(1), captions_of(kind, 2), guidance=1.0)
    torch.testing.assert_close(net(noisy, STEPS), predict(model, noisy, kind))


def test_variations_leave_captions_out_of_both_predictions(noisy: Tensor) -> None:
    model = decoder("states")
    first, second = (
        decoder_net(
            model, embeddings(1), captions_of("states", seed), guidance=2.0, is_caption_dropped=ALL
        )(noisy, STEPS)
        for seed in (2, 6)
    )
    torch.testing.assert_close(first, second)


def test_conditions_are_left_out_independently() -> None:
    uniforms = torch.rand(200_000, 2, generator=torch.Generator().manual_seed(0))
    no_embedding, no_caption = choose_dropped(uniforms, embedding_dropout=0.1, caption_dropout=0.5)
    shares = {
        (a, b): float(((no_embedding == a) & (no_caption == b)).float().mean())
        for a in (False, True)
        for b in (False, True)
    }
    expected = {
        (False, False): 0.45,
        (False, True): 0.45,
        (True, False): 0.05,
        (True, True): 0.05,
    }
    assert shares == pytest.approx(expected, abs=0.005)


def test_wrong_inputs_are_named(noisy: Tensor) -> None:
    with pytest.raises(ValueError, match=r"\[B, 3, 8, 8\], got \[3, 3, 4, 4\]"):
        predict(decoder("none"), noisy[:, :, :4, :4], "none")
    with pytest.raises(ValueError, match="takes no captions"):
        predict(decoder("none"), noisy, "states")
    with pytest.raises(ValueError, match="takes captions"):
        predict(decoder("states"), noisy, "none")


def test_dropped_captions_are_those_without_tokens(noisy: Tensor) -> None:
    model, captions = decoder("tokens"), captions_of("tokens", 2)
    empty = CaptionInputs(captions.values, torch.zeros_like(captions.is_given))
    by_flag = predict(model, noisy, "tokens", dropped=(NONE, ALL))
    torch.testing.assert_close(model(noisy, STEPS, embeddings(1), empty, NONE, NONE), by_flag)
