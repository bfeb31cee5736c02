"""The diffusion prior: what its slots see, what is left out, its loss and its candidates."""

import math

import pytest
import torch
import torch.nn.functional as F
from random_models import (
    LENGTHS,
    D,
    T,
    captions_of,
    diffusion_prior,
    embeddings,
    flags,
)
from torch import Tensor

from dalle_cli.models.diffusion.noise_schedules import noise_schedule, strided_steps
from dalle_cli.models.diffusion.noising import add_noise
from dalle_cli.models.unclip.caption_encoders import CaptionInputs
from dalle_cli.models.unclip.diffusion_prior import (
    DiffusionPrior,
    keep_closest,
    prior_loss,
    prior_net,
    sample_embeddings,
)

KINDS = {"states": {}, "tokens": {"text_vocab_size": 11}}
NONE, ALL = flags(False, False, False), flags(True, True, True)
STEPS = torch.tensor([2, 500, 999])

every_kind = pytest.mark.parametrize("kind", KINDS)


def predict(
    prior: DiffusionPrior,
    kind: str,
    *,
    noisy: int = 7,
    captions: int = 1,
    text: int = 2,
    dropped: Tensor = NONE,
) -> Tensor:
    """Predict from random inputs of the given seeds."""
    return prior(embeddings(noisy), STEPS, captions_of(kind, captions), embeddings(text), dropped)


@every_kind
@pytest.mark.parametrize("changed", [{"noisy": 8}, {"captions": 9}, {"text": 10}])
def test_prediction_depends_on_every_slot(kind: str, changed: dict[str, int]) -> None:
    prior = diffusion_prior(**KINDS[kind])
    difference = predict(prior, kind, **changed) - predict(prior, kind)
    assert (difference.abs().amax(dim=1) > 1e-3).all()


def test_noisy_embedding_and_step_have_gradients_and_an_effect() -> None:
    prior = diffusion_prior()
    noisy = embeddings(7).requires_grad_(True)
    captions, text = captions_of("states"), embeddings(2)
    prior(noisy, STEPS, captions, text, ALL).sum().backward()
    assert (noisy.grad.abs().amax(dim=1) > 1e-4).all()  # even where the caption is left out
    first, second = (prior(embeddings(7), t, captions, text, NONE) for t in (STEPS, STEPS - 1))
    assert (first - second).abs().amax(dim=1).min() > 1e-4


@every_kind
def test_nothing_is_left_of_a_dropped_caption(kind: str) -> None:
    prior = diffusion_prior(**KINDS[kind])
    dropped = flags(True, False, True)
    first = predict(prior, kind, dropped=dropped)
    second = predict(prior, kind, captions=9, text=10, dropped=dropped)
    torch.testing.assert_close(first[[0, 2]], second[[0, 2]])
    assert (first - second)[1].abs().max() > 1e-3


@every_kind
def test_padding_is_hidden(kind: str) -> None:
    prior, captions = diffusion_prior(**KINDS[kind]), captions_of(kind)
    changed = captions.values.clone()
    changed[~captions.is_given] += 1 if kind == "states" else 1_000_000
    arguments = embeddings(7), STEPS
    torch.testing.assert_close(
        prior(*arguments, CaptionInputs(changed, captions.is_given), embeddings(2), NONE),
        prior(*arguments, captions, embeddings(2), NONE),
    )


def test_prediction_matches_a_transformer_written_with_loops() -> None:
    """One sample, one query and one key at a time, from the slots on."""
    prior, captions = diffusion_prior(), captions_of("states")
    found = predict(prior, "states")
    text = F.normalize(embeddings(2), dim=1) * 0.5375 * math.sqrt(D)

    for b, length in enumerate(LENGTHS):
        slots = [prior.caption_input(captions.values[b, s]) for s in range(T)]
        slots += [prior.text_input(text[b]), prior.time(STEPS[b : b + 1])[0]]
        slots += [prior.noisy_input(embeddings(7)[b]), prior.query]
        x = [slot + prior.position[s] for s, slot in enumerate(slots)]
        seen = [s for s in range(T + 4) if s < length or s >= T]
        for block in prior.transformer.resblocks:
            x = block_by_hand(block, x, seen)
        torch.testing.assert_close(
            found[b], prior.output(prior.final_norm(x[-1])), rtol=1e-5, atol=1e-5
        )


def block_by_hand(block, x: list[Tensor], seen: list[int]) -> list[Tensor]:
    n_heads, width = block.attn.n_heads, len(x[0]) // block.attn.n_heads
    normed = [block.ln_1(slot) for slot in x]
    rows = [block.attn.in_proj_weight @ slot + block.attn.in_proj_bias for slot in normed]
    parts = [row.view(3, n_heads, width) for row in rows]

    after = []
    for s, slot in enumerate(x):
        merged = []
        for head in range(n_heads):
            keys = [t for t in seen if t <= s] or [s]
            scores = [float(parts[s][0, head] @ parts[t][1, head]) / width**0.5 for t in keys]
            weights = torch.tensor([math.exp(score - max(scores)) for score in scores])
            values = torch.stack([parts[t][2, head] for t in keys])
            merged.append(weights / weights.sum() @ values)
        slot = slot + block.attn.out_proj(torch.cat(merged))
        hidden = F.gelu(block.mlp.c_fc(block.ln_2(slot)))
        after.append(slot + block.mlp.c_proj(hidden))
    return after


def test_loss_is_relative_to_the_mean_square_of_the_target() -> None:
    schedule, index = noise_schedule("cosine", 1000), torch.tensor([5, 400, 990])
    for rms in (0.5375, 1.0):
        prior = diffusion_prior(embedding_rms=rms)
        captions, text, noise = captions_of("states"), embeddings(2), embeddings(3)
        found = prior_loss(
            prior,
            schedule,
            5 * embeddings(1),
            captions=captions,
            text_embeddings=text,
            is_dropped=NONE,
            noise=noise,
            index=index,
        )
        clean = F.normalize(embeddings(1), dim=1) * rms * math.sqrt(D)
        noisy = add_noise(schedule, clean, noise=noise, index=index)
        error = (prior(noisy, index, captions, text, NONE) - clean).square().mean(dim=1)
        torch.testing.assert_close(found, error / clean.square().mean(dim=1))


def test_guidance_leads_away_from_no_caption_and_one_is_a_single_prediction() -> None:
    prior, captions, text = diffusion_prior(), captions_of("states"), embeddings(2)
    told, untold = predict(prior, "states"), predict(prior, "states", dropped=ALL)
    for guidance in (0.0, 1.0, 4.0):
        found = prior_net(prior, captions, text, guidance=guidance)(embeddings(7), STEPS)
        torch.testing.assert_close(found, untold + guidance * (told - untold), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_candidates_of_a_batch_are_those_of_captions_alone(guidance: float) -> None:
    prior, text = diffusion_prior(), embeddings(2)
    captions = captions_of("states")
    schedule = noise_schedule("cosine", 1000).respaced(strided_steps(1000, [5]))
    noises = torch.randn(6, 3, 2, D, generator=torch.Generator().manual_seed(4))

    def sample(rows: slice) -> Tensor:
        return sample_embeddings(
            prior,
            schedule,
            CaptionInputs(*(tensor[rows] for tensor in captions)),
            text[rows],
            start=noises[5, rows],
            noise_at=lambda index: noises[index, rows],
            log_variances=schedule.posterior_log_variance,
            guidance=guidance,
        )

    together = sample(slice(None))
    torch.testing.assert_close(together.norm(dim=2), torch.ones(3, 2))
    for b in range(3):
        torch.testing.assert_close(sample(slice(b, b + 1))[0], together[b], rtol=1e-4, atol=1e-4)
    assert (together[:, 0] - together[:, 1]).abs().amax(dim=1).min() > 1e-4


def test_candidate_with_the_largest_cosine_is_kept_whatever_its_length() -> None:
    text = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    candidates = torch.tensor([[[0.6, 0.8], [0.5, 0.1]], [[0.1, 0.9], [30.0, 40.0]]])
    kept = keep_closest(candidates, text)
    assert torch.equal(kept, torch.stack([candidates[0, 1], candidates[1, 0]]))


def test_prior_that_knows_the_embedding_samples_it() -> None:
    """A whole loop with a network that is always right."""
    prior, clean = diffusion_prior(), F.normalize(embeddings(1), dim=1)
    prior.denoise = lambda noisy, timesteps, condition: prior.target(clean)
    schedule = noise_schedule("cosine", 1000).respaced(strided_steps(1000, [64]))
    noises = torch.randn(65, 3, 1, D, generator=torch.Generator().manual_seed(5))
    found = sample_embeddings(
        prior,
        schedule,
        captions_of("states"),
        embeddings(2),
        start=noises[64],
        noise_at=lambda index: noises[index],
        log_variances=schedule.posterior_log_variance,
    )
    torch.testing.assert_close(found[:, 0], clean, rtol=1e-5, atol=1e-5)


def test_published_prior_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        prior = DiffusionPrior(1024, 256, 24, 2048, 32, embedding_rms=0.5375, text_vocab_size=49408)
        karlos = DiffusionPrior(768, 77, 20, 2048, 32, embedding_rms=1.0, d_text=768)
    count = sum(parameter.numel() for parameter in prior.transformer.parameters())
    assert count == 1_208_598_528
    own = karlos.null_caption.numel() + karlos.null_text.numel()  # which karlo's does not have
    assert sum(parameter.numel() for parameter in karlos.parameters()) - own == 1_022_028_544


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="either d_text or text_vocab_size: 10 and 11"):
        diffusion_prior(d_text=10, text_vocab_size=11)
    captions = captions_of("states")
    short = CaptionInputs(captions.values[:, 1:], captions.is_given[:, 1:])
    with pytest.raises(ValueError, match="expected 5 text slots, got 4"):
        diffusion_prior()(embeddings(7), STEPS, short, embeddings(2), NONE)
