"""Sampling against slow definitions, and the cached sampler against one that caches nothing."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from dalle_cli.errors import DalleError
from dalle_cli.generation.sampling import (
    NO_TOKEN,
    Sampler,
    SamplingSettings,
    candidate_uniforms,
    sample_tokens,
    token_probabilities,
)
from dalle_cli.models.transformer import Transformer

T, W, V_TEXT, V_IMAGE = 5, 4, 11, 13
I = W * W  # noqa: E741  the axis of image slots, as everywhere
ALMOST_ONE = 1 - 2**-53  # the largest number that torch.rand can draw


@pytest.fixture
def model() -> Transformer:
    """Every parameter random, so that tokens depend on everything before them."""
    torch.manual_seed(0)
    model = Transformer(V_TEXT, V_IMAGE, T, W, n_layers=4, d_model=16, n_heads=2, kernel_size=3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


@pytest.fixture
def text_tokens() -> Tensor:
    text = torch.randint(V_TEXT, (3, T), generator=torch.Generator().manual_seed(1))
    text[:, T - 1 :] = text[1, 2:] = text[2, 0:] = -1
    return text


def draw_by_hand(weights: list[float], uniform: float) -> int:
    """Walk along the weights until the share walked is larger than the uniform number."""
    total = sum(weights)
    walked = 0.0
    for token, weight in enumerate(weights):
        walked += weight
        if walked > uniform * total:
            return token
    raise AssertionError("the walk ends before the last token")


def softmax(scores: list[float]) -> list[float]:
    weights = [math.exp(score - max(scores)) for score in scores]
    return [weight / sum(weights) for weight in weights]


def normalised(probabilities: Tensor) -> Tensor:
    return probabilities / probabilities.sum(dim=1, keepdim=True)


def top_k_by_hand(scores: list[float], k: int) -> list[float]:
    kept = sorted(range(len(scores)), key=lambda i: scores[i])[-k:]
    probabilities = softmax(scores)
    held = sum(probabilities[i] for i in kept)
    return [p / held if i in kept else 0.0 for i, p in enumerate(probabilities)]


def top_p_by_hand(probabilities: list[float], share: float) -> list[float]:
    """Take the likeliest tokens one by one until they hold the share."""
    kept: list[int] = []
    for i in sorted(range(len(probabilities)), key=lambda i: -probabilities[i]):
        if sum(probabilities[j] for j in kept) >= share:
            break
        kept.append(i)
    held = sum(probabilities[i] for i in kept)
    return [p / held if i in kept else 0.0 for i, p in enumerate(probabilities)]


weights = st.lists(st.just(0.0) | st.floats(0, 1, width=32), min_size=1, max_size=12).filter(any)


@given(weights, st.floats(0, 1, exclude_max=True))
@example([0.0, 0.5, 0.0, 0.5, 0.0], 0.0)
@example([0.0, 0.5, 0.0, 0.5, 0.0], 0.5)
@example([0.0, 0.3, 0.3, 0.1, 0.0], ALMOST_ONE)
@example([0.0, 1e-45, 1.0, 1e-45, 0.0], ALMOST_ONE)
def test_draw_matches_a_walk_and_never_gives_what_has_no_probability(
    weights: list[float], uniform: float
) -> None:
    probabilities = torch.tensor([weights], dtype=torch.float32)
    token = int(sample_tokens(probabilities, torch.tensor([uniform], dtype=torch.float64)))
    assert token == draw_by_hand(probabilities[0].double().tolist(), uniform)
    assert probabilities[0, token] > 0


@pytest.mark.parametrize("uniform", [0.0, ALMOST_ONE])
def test_impossible_tokens_are_not_drawn_at_either_end_of_a_large_vocabulary(
    uniform: float,
) -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(64, 8192, generator=generator).softmax(dim=1)
    probabilities[:, :100] = probabilities[:, -100:] = 0
    tokens = sample_tokens(probabilities, torch.full((64,), uniform, dtype=torch.float64))
    assert tokens.tolist() == [100 if uniform == 0 else 8091] * 64


@pytest.mark.parametrize("n_tokens", [5, 128, 8192])
@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_no_token_is_drawn_where_none_has_a_probability(bad: float, n_tokens: int) -> None:
    """Nor is one looked for outside the vocabulary, which would end a process on a GPU."""
    probabilities = torch.full((2, n_tokens), 1.0)
    probabilities[0] = bad
    tokens = sample_tokens(probabilities, torch.full((2,), 0.5, dtype=torch.float64))
    assert tokens.tolist() == [NO_TOKEN, n_tokens // 2]


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(),
        SamplingSettings(temperature=0),
        SamplingSettings(top_k=3, top_p=0.9),
        SamplingSettings(guidance=2.0),
    ],
    ids=["plain", "likeliest", "cut off", "guided"],
)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_predictions_that_are_no_numbers_are_told(
    bad: float, settings: SamplingSettings, model: Transformer, text_tokens: Tensor
) -> None:
    """As after an overflow in 16 bits: a picture of them would look like any other bad one."""
    with torch.no_grad():
        model.image_head.bias.fill_(bad)
    uniforms = candidate_uniforms(0, "a cat", numbers=[0, 1, 2], n_tokens=I)
    with pytest.raises(DalleError, match="predictions are not finite"):
        Sampler(model, settings).sample(text_tokens, uniforms)


def test_evenly_spaced_uniforms_draw_every_token_as_often_as_its_probability_says() -> None:
    probabilities = torch.tensor([0.05, 0.0, 0.4, 0.25, 0.3, 0.0])
    n = 1000
    uniforms = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    counts = sample_tokens(probabilities.expand(n, -1), uniforms).bincount(minlength=6)
    assert counts.tolist() == [50, 0, 400, 250, 300, 0]


def test_frequencies_of_drawn_tokens_are_the_probabilities() -> None:
    probabilities = torch.tensor([0.02, 0.28, 0.1, 0.6])
    n = 20_000
    uniforms = candidate_uniforms(0, "a cat", numbers=[0], n_tokens=n)[0]
    shares = sample_tokens(probabilities.expand(n, -1), uniforms).bincount() / n
    five_sigma = 5 * (probabilities * (1 - probabilities) / n).sqrt()
    assert ((shares - probabilities).abs() < five_sigma).all()


def test_rows_are_drawn_independently_of_one_another() -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(10, 30, generator=generator)
    uniforms = torch.rand(10, generator=generator, dtype=torch.float64)
    alone = [
        int(sample_tokens(p[None], u[None])) for p, u in zip(probabilities, uniforms, strict=True)
    ]
    assert sample_tokens(probabilities, uniforms).tolist() == alone


@pytest.fixture
def logits() -> Tensor:
    return 2 * torch.randn(6, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_probabilities_are_the_softmax_at_a_temperature(logits: Tensor, temperature: float) -> None:
    expected = torch.tensor(
        [softmax([score / temperature for score in row]) for row in logits.tolist()]
    )
    probabilities = token_probabilities(logits, SamplingSettings(temperature))
    torch.testing.assert_close(probabilities, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("k", [1, 2, 7, 39, 40])
def test_top_k_matches_its_definition(logits: Tensor, k: int) -> None:
    expected = torch.tensor([top_k_by_hand(row, k) for row in logits.tolist()])
    probabilities = token_probabilities(logits, SamplingSettings(top_k=k))
    torch.testing.assert_close(normalised(probabilities), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("k", [0, 41, 1000])
def test_top_k_of_nothing_or_more_than_there_are_keeps_all(logits: Tensor, k: int) -> None:
    assert torch.equal(
        token_probabilities(logits, SamplingSettings(top_k=k)), logits.softmax(dim=1)
    )


@pytest.mark.parametrize("share", [0.01, 0.3, 0.8, 0.99, 1.0])
def test_top_p_matches_its_definition(logits: Tensor, share: float) -> None:
    expected = torch.tensor([top_p_by_hand(softmax(row), share) for row in logits.tolist()])
    probabilities = token_probabilities(logits, SamplingSettings(top_p=share))
    torch.testing.assert_close(normalised(probabilities), expected, rtol=1e-5, atol=1e-7)


def nucleus_by_hand(probabilities: list[float], share: float) -> list[bool]:
    """Take the likeliest until they hold the share, exactly, then all as likely as the last."""
    smallest, held = 0.0, Fraction(0)
    for probability in sorted(probabilities, reverse=True):
        smallest, held = probability, held + Fraction(probability)
        if held >= Fraction(share):
            break
    return [probability >= smallest for probability in probabilities]


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("spread", [0.0, 1e-6, 1.0, 30.0])
def test_top_p_keeps_exactly_the_tokens_of_its_definition(spread: float, share: float) -> None:
    """Whether all are as likely, alike in all but the last bits, or of every magnitude."""
    logits = spread * torch.randn(3, 512, generator=torch.Generator().manual_seed(0))
    probabilities = logits.softmax(dim=1)
    kept = token_probabilities(logits, SamplingSettings(top_p=share)) > 0
    expected = [nucleus_by_hand(row, share) for row in probabilities.tolist()]
    assert torch.equal(kept, torch.tensor(expected) & (probabilities > 0))


@pytest.mark.parametrize("n_tokens", [511, 512, 2048])
@pytest.mark.parametrize("k", [1, 5, 63, 64, 200])
def test_top_k_keeps_the_likeliest_of_many_tokens(n_tokens: int, k: int) -> None:
    """Also where they are all in one group of neighbours, or each in another."""
    logits = torch.randn(4, n_tokens, generator=torch.Generator().manual_seed(0))
    logits[1] = torch.linspace(0, 9, n_tokens)
    logits[2] = logits[2].sort().values
    kept = token_probabilities(logits, SamplingSettings(top_k=k)) > 0
    ranks = logits.argsort(dim=1, descending=True).argsort(dim=1)
    assert torch.equal(kept, ranks < k)


def test_top_k_keeps_no_more_tokens_than_k_among_equals() -> None:
    logits = torch.zeros(2, 64)
    logits[1, 10:14] = 1
    kept = token_probabilities(logits, SamplingSettings(top_k=6)) > 0
    assert kept.sum(dim=1).tolist() == [6, 6] and bool(kept[1, 10:14].all())


def test_top_p_goes_by_what_temperature_and_top_k_have_left(logits: Tensor) -> None:
    cooled = [[score / 0.7 for score in row] for row in logits.tolist()]
    expected = torch.tensor([top_p_by_hand(top_k_by_hand(row, 9), 0.6) for row in cooled])
    probabilities = token_probabilities(
        logits, SamplingSettings(temperature=0.7, top_k=9, top_p=0.6)
    )
    torch.testing.assert_close(normalised(probabilities), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("settings", [SamplingSettings(0), SamplingSettings(0, top_k=3, top_p=0.5)])
@pytest.mark.parametrize("uniform", [0.0, 0.5, ALMOST_ONE])
def test_temperature_zero_draws_the_likeliest_token(
    logits: Tensor, settings: SamplingSettings, uniform: float
) -> None:
    tokens = sample_tokens(
        token_probabilities(logits, settings), torch.full((6,), uniform, dtype=torch.float64)
    )
    assert torch.equal(tokens, logits.argmax(dim=1))


def test_probabilities_of_bf16_logits_are_fp32(logits: Tensor) -> None:
    probabilities = token_probabilities(logits.bfloat16(), SamplingSettings())
    torch.testing.assert_close(
        probabilities, logits.bfloat16().float().softmax(dim=1), rtol=0, atol=0
    )


def test_uniforms_of_a_candidate_do_not_depend_on_its_company() -> None:
    together = candidate_uniforms(3, "a cat", numbers=[0, 5, 2], n_tokens=100)
    for row, number in zip(together, (0, 5, 2), strict=True):
        assert torch.equal(row, candidate_uniforms(3, "a cat", numbers=[number], n_tokens=100)[0])


def test_uniforms_depend_on_seed_caption_and_number() -> None:
    choices = [(3, "a cat", 0), (4, "a cat", 0), (3, "a dog", 0), (3, "a cat", 1), (3, "A cat", 0)]
    choices += [(1, "a cat", 23), (12, "a cat", 3), (1, "3a cat", 2)]
    rows = [
        tuple(candidate_uniforms(seed, caption, numbers=[number], n_tokens=8)[0].tolist())
        for seed, caption, number in choices
    ]
    assert len(set(rows)) == len(choices)


def test_uniforms_neither_read_nor_touch_the_global_generator() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = candidate_uniforms(0, "a cat", numbers=[0], n_tokens=10)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(candidate_uniforms(0, "a cat", numbers=[0], n_tokens=10), first)


def test_uniforms_are_uniform_on_the_half_open_interval() -> None:
    uniforms = candidate_uniforms(0, "a cat", numbers=list(range(20)), n_tokens=1000)
    assert uniforms.dtype == torch.float64 and uniforms.min() >= 0 and uniforms.max() < 1
    shares = torch.histc(uniforms, bins=10, min=0, max=1) / uniforms.numel()
    assert (shares - 0.1).abs().max() < 5 * (0.1 * 0.9 / 20_000) ** 0.5
    rows = torch.corrcoef(uniforms) - torch.eye(20)
    assert rows.abs().max() < 5 / 1000**0.5


@torch.no_grad()
def sample_slowly(
    model: Transformer,
    text_tokens: Tensor,
    uniforms: Tensor,
    settings: SamplingSettings,
    kept: Tensor | None = None,
) -> Tensor:
    """Run the whole stream for every position, with the caption and without, a sample at a time."""
    own = [-1] * I if kept is None else kept.tolist()
    rows = []
    for text, numbers in zip(text_tokens, uniforms.tolist(), strict=True):
        image = torch.zeros(1, I, dtype=torch.int64)
        for position in range(I):
            told, untold = (
                model(words[None], image)[1][:, position] for words in (text, torch.full((T,), -1))
            )
            logits = untold + settings.guidance * (told - untold)
            probabilities = token_probabilities(logits, settings)[0].double().tolist()
            drawn = draw_by_hand(probabilities, numbers[position])
            image[0, position] = drawn if own[position] == -1 else own[position]
        rows.append(image[0])
    return torch.stack(rows)


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(),
        SamplingSettings(0.7, top_k=6, top_p=0.9),
        SamplingSettings(temperature=0),
    ],
)
def test_cached_sampler_equals_the_full_forward_token_for_token(
    model: Transformer, text_tokens: Tensor, settings: SamplingSettings
) -> None:
    uniforms = candidate_uniforms(0, "a cat", numbers=[0, 1, 2], n_tokens=I)
    tokens = Sampler(model, settings).sample(text_tokens, uniforms)
    assert tokens.dtype == torch.int64 and len(tokens.unique()) > 1
    assert torch.equal(tokens, sample_slowly(model, text_tokens, uniforms, settings))


@pytest.mark.thorough
@pytest.mark.parametrize("n_each", [1, 2])
@pytest.mark.parametrize("guidance", [0.0, 0.5, 3.0])
def test_guided_sampler_equals_the_full_forward_token_for_token(
    model: Transformer, text_tokens: Tensor, guidance: float, n_each: int
) -> None:
    settings = SamplingSettings(0.7, top_k=6, top_p=0.9, guidance=guidance)
    uniforms = candidate_uniforms(0, "a cat", numbers=list(range(3 * n_each)), n_tokens=I)
    captions = text_tokens.repeat_interleave(n_each, 0)
    tokens = Sampler(model, settings).sample(captions, uniforms)
    assert torch.equal(tokens, sample_slowly(model, captions, uniforms, settings))
    assert not torch.equal(
        tokens, sample_slowly(model, captions, uniforms, SamplingSettings(0.7, 6, 0.9))
    )


def test_guidance_of_zero_draws_as_for_no_caption(model: Transformer, text_tokens: Tensor) -> None:
    uniforms = candidate_uniforms(0, "a cat", numbers=[0, 1, 2], n_tokens=I)
    tokens = Sampler(model, SamplingSettings(guidance=0.0)).sample(text_tokens, uniforms)
    empty = torch.full_like(text_tokens, -1)
    assert torch.equal(tokens, Sampler(model, SamplingSettings()).sample(empty, uniforms))


KEPT = {
    "rows": lambda position: position < 2 * W,
    "all but a box": lambda position: not (position // W in (1, 2) and position % W in (0, 1)),
    "all but the last": lambda position: position < I - 1,
    "the last": lambda position: position == I - 1,
    "none": lambda position: False,
}


@pytest.mark.thorough
@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("name", KEPT)
def test_sampler_that_keeps_tokens_equals_the_full_forward_token_for_token(
    model: Transformer, text_tokens: Tensor, name: str, guidance: float
) -> None:
    picture = torch.randint(V_IMAGE, (I,), generator=torch.Generator().manual_seed(2))
    is_kept = torch.tensor([KEPT[name](position) for position in range(I)])
    kept = torch.where(is_kept, picture, -1)
    uniforms = candidate_uniforms(0, "a cat", numbers=[0, 1, 2], n_tokens=I)
    settings = SamplingSettings(guidance=guidance)
    tokens = Sampler(model, settings).sample(text_tokens, uniforms, kept)
    assert torch.equal(tokens[:, is_kept], picture[is_kept].expand(3, -1))
    assert torch.equal(tokens, sample_slowly(model, text_tokens, uniforms, settings, kept))


def test_progress_is_told_after_each_sampled_position(
    model: Transformer, text_tokens: Tensor
) -> None:
    kept = torch.full([I], -1)
    kept[:W] = 0
    uniforms = candidate_uniforms(0, "a cat", numbers=[0, 1, 2], n_tokens=I)
    sampler, shares = Sampler(model, SamplingSettings()), []
    tokens = sampler.sample(text_tokens, uniforms, kept, on_progress=shares.append)
    n_sampled = I - W
    assert shares == pytest.approx([(i + 1) / n_sampled for i in range(n_sampled)])
    assert torch.equal(tokens, sampler.sample(text_tokens, uniforms, kept))


def test_what_is_raised_on_the_way_ends_the_sampling(
    model: Transformer, text_tokens: Tensor
) -> None:
    def give_up(share: float) -> None:
        if share > 0.5:
            raise InterruptedError(f"{share:.0%}")

    uniforms = candidate_uniforms(0, "a cat", numbers=[0, 1, 2], n_tokens=I)
    sampler = Sampler(model, SamplingSettings())
    with pytest.raises(InterruptedError):
        sampler.sample(text_tokens, uniforms, on_progress=give_up)
    whole = Sampler(model, SamplingSettings()).sample(text_tokens, uniforms)
    assert torch.equal(sampler.sample(text_tokens, uniforms), whole)


def test_keeping_a_samples_own_tokens_changes_none_of_it(
    model: Transformer, text_tokens: Tensor
) -> None:
    """Each position has its own random number, whatever is kept before it."""
    uniforms = candidate_uniforms(0, "a cat", numbers=[0, 1, 2], n_tokens=I)
    whole = Sampler(model, SamplingSettings()).sample(text_tokens, uniforms)
    for n_kept in (1, 6, I - 1):
        kept = whole[0].clone()
        kept[n_kept:] = -1
        assert torch.equal(
            Sampler(model, SamplingSettings()).sample(text_tokens[:1], uniforms[:1], kept),
            whole[:1],
        )


def test_sampler_leaves_what_it_is_given_alone(model: Transformer, text_tokens: Tensor) -> None:
    kept = torch.full((I,), -1)
    kept[:W] = 3
    given = [text_tokens, candidate_uniforms(0, "a cat", numbers=[0, 1, 2], n_tokens=I), kept]
    before = [tensor.clone() for tensor in given]
    Sampler(model, SamplingSettings(guidance=2.0)).sample(*given)
    assert all(map(torch.equal, given, before))


@pytest.mark.parametrize(("guidance", "n_rows"), [(1.0, 3), (2.0, 6)])
def test_every_slot_is_computed_once_in_every_layer(
    model: Transformer, text_tokens: Tensor, guidance: float, n_rows: int
) -> None:
    """Or the cache would be of no use; guidance also has the slots of the empty caption."""
    n_slots: dict[str, list[int]] = {}

    def count(name: str, norm: nn.Module) -> None:
        norm.register_forward_pre_hook(
            lambda _, inputs: n_slots.setdefault(name, []).append(inputs[0].shape[:-1].numel())
        )

    for i, block in enumerate(model.blocks):
        count(f"{i} attention", block.attention.norm)
        count(f"{i} mlp", block.mlp.norm)
    settings = SamplingSettings(guidance=guidance)
    Sampler(model, settings).sample(
        text_tokens, candidate_uniforms(0, "", numbers=[0, 1, 2], n_tokens=I)
    )
    assert len(n_slots) == 2 * len(model.blocks)
    assert all(slots == [n_rows * T] + [n_rows] * I for slots in n_slots.values())


def test_a_sample_is_the_same_alone_and_in_company(model: Transformer, text_tokens: Tensor) -> None:
    uniforms = candidate_uniforms(0, "a cat", numbers=[0, 1, 2], n_tokens=I)
    together = Sampler(model, SamplingSettings()).sample(text_tokens, uniforms)
    alone = Sampler(model, SamplingSettings()).sample(text_tokens[1:2], uniforms[1:2])
    assert torch.equal(together[1:2], alone)
