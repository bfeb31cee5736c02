"""The autoregressive prior: causality, what is left out, cached sampling, and its loss."""

import math

import pytest
import torch
from random_models import (
    F_TEXT,
    N_BUCKETS,
    N_CODES,
    D,
    T,
    autoregressive_prior,
    captions_of,
    embeddings,
    flags,
)
from torch import Tensor

from dalle_cli.models.unclip.autoregressive_prior import (
    AutoregressivePrior,
    code_loss,
    sample_codes,
)
from dalle_cli.models.unclip.caption_encoders import CaptionInputs

NONE, ALL = flags(False, False, False), flags(True, True, True)
COSINES = torch.tensor([1, 6, 3])


@pytest.fixture
def codes() -> Tensor:
    return torch.randint(N_BUCKETS, (3, N_CODES), generator=torch.Generator().manual_seed(3))


def predict(
    prior: AutoregressivePrior,
    codes: Tensor,
    *,
    cosines: Tensor = COSINES,
    captions: int = 1,
    text: int = 2,
    dropped: Tensor = NONE,
) -> Tensor:
    """Predict under random conditions of the given seeds."""
    return prior(codes, cosines, captions_of("states", captions), embeddings(text), dropped)


def test_codes_never_change_earlier_predictions_and_change_the_next(codes: Tensor) -> None:
    prior = autoregressive_prior()
    before = predict(prior, codes)
    assert before.shape == (3, N_CODES, N_BUCKETS)
    for number in range(N_CODES):
        changed = codes.clone()
        changed[:, number] = (changed[:, number] + 1) % N_BUCKETS
        after = predict(prior, changed)
        torch.testing.assert_close(after[:, : number + 1], before[:, : number + 1])
        if number + 1 < N_CODES:
            assert (after - before)[:, number + 1].abs().amax(dim=1).min() > 1e-3


@pytest.mark.parametrize("changed", [{"cosines": COSINES - 1}, {"captions": 9}, {"text": 10}])
def test_conditions_reach_the_first_prediction_unless_they_are_left_out(
    codes: Tensor, changed
) -> None:
    prior, dropped = autoregressive_prior(), flags(True, False, True)
    first, second = (predict(prior, codes, dropped=dropped, **c) for c in ({}, changed))
    torch.testing.assert_close(first[[0, 2]], second[[0, 2]])
    assert (first - second)[1, 0].abs().max() > 1e-3


def test_captions_that_are_left_out_predict_the_same_whatever_their_lengths(codes: Tensor) -> None:
    prior, captions = autoregressive_prior(), captions_of("states")
    assert captions.is_given.sum(dim=1).unique().numel() == 3
    same = codes[:1].expand_as(codes)
    found = prior(same, COSINES, captions, embeddings(2), ALL)
    torch.testing.assert_close(found, found[:1].expand_as(found))


def test_padding_is_hidden(codes: Tensor) -> None:
    prior, captions = autoregressive_prior(), captions_of("states")
    changed = captions.values.clone()
    changed[~captions.is_given] += 1
    found = prior(codes, COSINES, CaptionInputs(changed, captions.is_given), embeddings(2), NONE)
    torch.testing.assert_close(found, predict(prior, codes))


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
def test_cached_sampling_sees_the_logits_of_whole_predictions(guidance: float) -> None:
    """The likeliest codes, with the logits that led to each."""
    prior, seen = autoregressive_prior(), []

    def likeliest(logits: Tensor, number: int) -> Tensor:
        assert number == len(seen)
        seen.append(logits)
        return logits.argmax(dim=1)

    codes = sample_codes(
        prior, COSINES, captions_of("states"), embeddings(2), choose=likeliest, guidance=guidance
    )
    told, untold = predict(prior, codes), predict(prior, codes, dropped=ALL)
    logits = untold + guidance * (told - untold)
    torch.testing.assert_close(torch.stack(seen, dim=1), logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(codes, torch.stack(seen, dim=1).argmax(dim=2))


def test_loss_starts_at_that_of_the_uniform_distribution(codes: Tensor) -> None:
    fresh = AutoregressivePrior(D, N_CODES, N_BUCKETS, F_TEXT, T, n_layers=1, d_model=8, n_heads=2)
    loss = code_loss(predict(fresh, codes), codes)
    torch.testing.assert_close(loss, torch.full((3,), math.log(N_BUCKETS)))


def test_loss_is_the_mean_negative_log_probability_of_codes(codes: Tensor) -> None:
    logits = predict(autoregressive_prior(), codes)
    for b, row in enumerate(codes.tolist()):
        nats = [-float(logits[b, k].log_softmax(dim=0)[code]) for k, code in enumerate(row)]
        assert float(code_loss(logits, codes)[b]) == pytest.approx(sum(nats) / N_CODES, rel=1e-5)


def test_published_latent_decoder_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        prior = AutoregressivePrior(1024, 319, 1024, 1024, 256, 24, 1664, 26)
    assert sum(parameter.numel() for parameter in prior.blocks.parameters()) == 797_961_216


def test_another_number_of_text_slots_is_refused(codes: Tensor) -> None:
    captions = captions_of("states")
    short = CaptionInputs(captions.values[:, 1:], captions.is_given[:, 1:])
    with pytest.raises(ValueError, match="expected 5 text slots, got 4"):
        autoregressive_prior()(codes, COSINES, short, embeddings(2), NONE)
