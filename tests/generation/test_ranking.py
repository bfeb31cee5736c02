"""Perplexities and cosines against slow definitions, and the order that they put pictures in."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from dalle_cli.data.augment import clip_square
from dalle_cli.data.clip_tokenizer import ClipTokenizer, own_clip_tokenizer
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.generation.dalle import TokenBatch
from dalle_cli.generation.pipeline import Candidate, GeneratedBatch
from dalle_cli.generation.ranking import (
    Ranking,
    ScoredCandidate,
    caption_gain,
    image_perplexity,
    keep_best,
    rank_by_clip,
    rank_by_likelihood,
    score_batch,
)
from dalle_cli.models.clip import Clip, Tower
from dalle_cli.models.transformer import Transformer
from dalle_cli.scoring.clip_scorer import ClipScorer, clip_checksum

T, W, V_TEXT, V_IMAGE = 6, 4, 11, 13
I = W * W  # noqa: E741  the axis of image slots, as everywhere
PICTURE = Image.new("RGB", (1, 1))


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    """Every parameter random, so that likelihoods depend on everything before them."""
    torch.manual_seed(0)
    model = Transformer(V_TEXT, V_IMAGE, T, W, n_layers=4, d_model=16, n_heads=2, kernel_size=3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval().requires_grad_(False)


@pytest.fixture
def tokens() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    text_tokens = torch.randint(V_TEXT, (4, T), generator=generator)
    text_tokens[0, 5:] = text_tokens[1, 2:] = text_tokens[2, 0:] = text_tokens[3, 5:] = -1
    return text_tokens, torch.randint(V_IMAGE, (4, I), generator=generator)


def nats_by_hand(transformer: Transformer, text_tokens: Tensor, image_tokens: Tensor) -> float:
    """Take the likelihood of one token after another, the later ones unknown."""
    nats = 0.0
    for position in range(I):
        known = torch.zeros(1, I, dtype=torch.int64)
        known[0, :position] = image_tokens[:position]
        logits = transformer(text_tokens[None], known)[1][0, position].tolist()
        nats += (
            math.log(sum(math.exp(logit) for logit in logits)) - logits[int(image_tokens[position])]
        )
    return nats


def perplexity_by_hand(
    transformer: Transformer, text_tokens: Tensor, image_tokens: Tensor
) -> float:
    return math.exp(nats_by_hand(transformer, text_tokens, image_tokens) / I)


def test_perplexity_matches_a_token_by_token_loop(
    transformer: Transformer, tokens: tuple[Tensor, Tensor]
) -> None:
    expected = [
        perplexity_by_hand(transformer, text, image) for text, image in zip(*tokens, strict=True)
    ]
    assert image_perplexity(transformer, *tokens) == pytest.approx(expected, rel=1e-5)
    assert max(expected) > 1.01 * min(expected)


def test_perplexity_of_a_picture_is_that_of_teacher_forcing_it_alone(
    transformer: Transformer, tokens: tuple[Tensor, Tensor]
) -> None:
    alone = [
        image_perplexity(transformer, text[None], image[None])[0]
        for text, image in zip(*tokens, strict=True)
    ]
    assert image_perplexity(transformer, *tokens) == alone


def test_likelihoods_take_the_memory_of_one_picture(
    transformer: Transformer, tokens: tuple[Tensor, Tensor]
) -> None:
    """However many are sampled or decoded together."""
    n_rows: list[int] = []
    hook = transformer.register_forward_pre_hook(lambda _, inputs: n_rows.append(len(inputs[0])))
    for compute in (image_perplexity, caption_gain):
        compute(transformer, *tokens)
    hook.remove()
    assert n_rows == [1] * 3 * len(tokens[0])


def test_perplexity_of_a_picture_is_not_changed_by_the_other_rows(
    transformer: Transformer, tokens: tuple[Tensor, Tensor]
) -> None:
    text_tokens, image_tokens = tokens
    others, own = [0, 2, 3], 1
    changed_text, changed_image = text_tokens.clone(), image_tokens.clone()
    changed_text[others] = changed_text[others].roll(1, dims=0)
    changed_image[others] = (changed_image[others] + 5) % V_IMAGE
    before = image_perplexity(transformer, text_tokens, image_tokens)
    after = image_perplexity(transformer, changed_text, changed_image)
    assert after[own] == before[own] and all(after[i] != before[i] for i in others)


def test_perplexity_of_a_model_that_knows_nothing_is_its_vocabulary(
    tokens: tuple[Tensor, Tensor],
) -> None:
    fresh = Transformer(
        V_TEXT, V_IMAGE, T, W, n_layers=2, d_model=16, n_heads=2, kernel_size=3
    )  # heads of zeros
    assert image_perplexity(fresh, *tokens) == pytest.approx([V_IMAGE] * 4)


def drawn_slice(text_tokens: Tensor, image_tokens: Tensor) -> TokenBatch:
    n = len(text_tokens)
    candidates = [Candidate("", i) for i in range(n)]
    return TokenBatch(0, candidates, [PICTURE] * n, list(range(n)), text_tokens, image_tokens)


def test_ranking_by_perplexity_scores_a_batch_with_its_own_captions(
    transformer: Transformer, tokens: tuple[Tensor, Tensor]
) -> None:
    ranking = rank_by_likelihood(transformer, "perplexity")
    assert ranking.score(drawn_slice(*tokens)) == image_perplexity(transformer, *tokens)
    assert (ranking.by, ranking.checksum) == ("perplexity", None)


def test_caption_gain_matches_a_token_by_token_loop_with_the_caption_and_without(
    transformer: Transformer, tokens: tuple[Tensor, Tensor]
) -> None:
    empty = torch.full((T,), -1)
    expected = [
        nats_by_hand(transformer, empty, image) - nats_by_hand(transformer, text, image)
        for text, image in zip(*tokens, strict=True)
    ]
    gains = caption_gain(transformer, *tokens)
    assert gains == pytest.approx(expected, abs=1e-4)
    assert gains[2] == 0  # its caption is empty
    assert max(map(abs, gains)) > 0.1


def test_ranking_by_caption_scores_a_batch_with_its_own_captions(
    transformer: Transformer, tokens: tuple[Tensor, Tensor]
) -> None:
    ranking = rank_by_likelihood(transformer, "caption")
    assert ranking.score(drawn_slice(*tokens)) == caption_gain(transformer, *tokens)
    assert (ranking.by, ranking.checksum) == ("caption", None)


def small_clip(**changes: object) -> Clip:
    torch.manual_seed(0)
    tower = Tower(n_layers=1, d_model=16, n_heads=2, d_mlp=32)
    sizes = {"image_size": 16, "patch_size": 8, "text_len": 8, "text_vocab_size": 259, "d_embed": 8}
    return (
        Clip(**sizes, activation="quick_gelu", vision=tower, text=tower, **changes)
        .eval()
        .requires_grad_(False)
    )


@pytest.fixture
def clip_tokenizer() -> ClipTokenizer:
    return own_clip_tokenizer(Tokenizer([], "tokenizers"))


def test_clip_scores_are_the_cosines_of_pictures_and_their_own_captions(
    clip_tokenizer: ClipTokenizer,
) -> None:
    clip = small_clip()
    captions = ["a ring", "a red circle", "a ring", "a ring of a length that is cut"]
    noise = np.random.default_rng(0).integers(256, size=(4, 32, 24, 3), dtype=np.uint8)
    pictures = [Image.fromarray(pixels) for pixels in noise]
    expected = []
    for caption, picture in zip(captions, pictures, strict=True):
        square = torch.from_numpy(clip_square(picture, 16).astype(np.float32) / 255).permute(
            2, 0, 1
        )
        image = clip.encode_image(clip.normalise(square[None]))[0].tolist()
        text = clip.encode_text(clip_tokenizer([caption], 8))[0].tolist()
        dot = sum(a * b for a, b in zip(image, text, strict=True))
        expected.append(dot / math.dist(image, [0] * 8) / math.dist(text, [0] * 8))

    ranking = rank_by_clip(
        ClipScorer(
            clip,
            clip_tokenizer,
            torch.device("cpu"),
            checksum="of weights",
            vocabulary_checksum="of words",
        ),
        captions,
    )
    candidates = [Candidate(caption, i) for i, caption in enumerate(captions)]
    drawn = GeneratedBatch(0, candidates, pictures, [0, 1, 2, 3])
    assert ranking.score(drawn) == pytest.approx(expected, abs=1e-5)
    assert (ranking.by, ranking.checksum) == ("clip", "of weights-of words")
    assert max(expected) - min(expected) > 0.01


@pytest.mark.parametrize(
    "captions", [["a"], ["a ring", "a"], ["a ring of a length that is cut", "a"]]
)
def test_captions_are_embedded_as_with_all_their_padding(
    captions: list[str], clip_tokenizer: ClipTokenizer
) -> None:
    clip = small_clip()
    found = ClipScorer(clip, clip_tokenizer, torch.device("cpu")).embed_captions(captions)
    padded = F.normalize(clip.encode_text(clip_tokenizer(captions, 8)), dim=1)
    torch.testing.assert_close(found, padded, rtol=0, atol=1e-6)


def test_every_caption_is_embedded_once_beforehand(clip_tokenizer: ClipTokenizer) -> None:
    clip = small_clip()
    n_embedded = []
    clip.ln_final.register_forward_pre_hook(lambda _, given: n_embedded.append(len(given[0])))
    scorer = ClipScorer(clip, clip_tokenizer, torch.device("cpu"))
    rank_by_clip(scorer, [f"caption {i % 300}" for i in range(600)])
    assert sum(n_embedded) == 300


def test_checksum_of_a_clip_tells_its_weights_and_what_else_embeddings_depend_on(
    clip_tokenizer: ClipTokenizer,
) -> None:
    nudged = small_clip()
    nudged.logit_scale += 1e-3
    others = [
        nudged,
        small_clip(pixel_mean=(0, 0, 0)),
        small_clip(pixel_std=(1, 1, 1)),
        small_clip(end_of_text=258),
    ]
    assert clip_checksum(small_clip()) == clip_checksum(small_clip())
    assert len({clip_checksum(clip) for clip in (small_clip(), *others)}) == 5


def pictures_with(scores: list[float | None]) -> list[ScoredCandidate]:
    return [
        ScoredCandidate(number, Candidate("a ring", number), score)
        for number, score in enumerate(scores)
    ]


def fake_ranking(by: str) -> Ranking:
    return Ranking(by, lambda batch: [float(candidate.number) for candidate in batch.candidates])


def numbers(pictures: Iterator[ScoredCandidate]) -> list[int]:
    return [one.candidate.number for one in pictures]


def test_higher_cosines_and_gains_and_lower_perplexities_come_first() -> None:
    pictures = pictures_with([0.5, 3.0, 1.0, 2.0])
    for by in ("clip", "caption"):
        assert numbers(keep_best(pictures, n=4, n_kept=3, ranking=fake_ranking(by))) == [1, 3, 2]
    assert numbers(keep_best(pictures, n=4, n_kept=3, ranking=fake_ranking("perplexity"))) == [
        0,
        2,
        3,
    ]


@pytest.mark.parametrize("by", ["clip", "perplexity"])
def test_equal_scores_stay_in_the_order_they_were_drawn_in(by: str) -> None:
    middle = pictures_with([1.0, 1.0, 1.0, 1.0])
    assert numbers(keep_best(middle, n=4, n_kept=4, ranking=fake_ranking(by))) == [0, 1, 2, 3]


@given(
    st.integers(1, 5).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))),
    st.integers(0, 4),
    st.sampled_from(["clip", "perplexity"]),
    st.data(),
)
def test_kept_pictures_are_those_that_few_enough_others_of_their_caption_beat(
    sizes: tuple[int, int], n_captions: int, by: str, data: st.DataObject
) -> None:
    n, n_kept = sizes
    scores = data.draw(
        st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=n * n_captions, max_size=n * n_captions)
    )
    pictures = pictures_with(scores)
    kept = list(keep_best(pictures, n=n, n_kept=n_kept, ranking=fake_ranking(by)))

    def n_better(i: int) -> int:
        goodness = [score if by == "clip" else -score for score in scores]
        rivals = range(i - i % n, i - i % n + n)
        return sum(
            goodness[j] > goodness[i] or (goodness[j] == goodness[i] and j < i) for j in rivals
        )

    expected = [(i // n, n_better(i) + 1, i) for i in range(len(scores)) if n_better(i) < n_kept]
    assert [(one.rank, one.candidate.number) for one in kept] == [
        (rank, i) for _, rank, i in sorted(expected)
    ]
    for one in kept:
        assert (
            replace(one, rank=None, ranked_by=None) == pictures[one.candidate.number]
            and one.ranked_by == by
        )


@pytest.mark.parametrize(
    ("ranking", "n_pulled"), [(None, [1, 2, 3, 4, 5, 6]), (fake_ranking("clip"), [3, 3, 6, 6])]
)
def test_pictures_pass_as_soon_as_they_can(ranking: Ranking | None, n_pulled: list[int]) -> None:
    """Unranked ones at once, ranked ones when all of their caption are there."""
    pulled = []
    source = (pulled.append(one) or one for one in pictures_with([1.0, 2.0, 3.0] * 2))
    assert [len(pulled) for _ in keep_best(source, n=3, n_kept=2, ranking=ranking)] == n_pulled


def test_unranked_pictures_pass_unchanged() -> None:
    pictures = pictures_with([None] * 5)
    assert list(keep_best(iter(pictures), n=2, n_kept=2, ranking=None)) == pictures


@pytest.mark.parametrize("wanted", [[2, 3], [0, 1, 3], [0]], ids=str)
@pytest.mark.parametrize("is_ranked", [False, True])
def test_whole_slices_are_scored_and_the_wanted_pictures_passed_on(
    is_ranked: bool, wanted: list[int]
) -> None:
    """Bits of a score depend on the shape of a multiplication, as those of a picture do."""
    scored_together = []

    def score(drawn: GeneratedBatch) -> list[float]:
        scored_together.append(len(drawn.candidates))
        return [10.0 * candidate.number for candidate in drawn.candidates]

    pictures = [Image.new("RGB", (1, 1), (i, 0, 0)) for i in range(4)]
    drawn = replace(
        drawn_slice(torch.zeros(4, 1), torch.zeros(4, 1)),
        position=8,
        pictures=pictures,
        requested=wanted,
    )
    taken = score_batch(drawn, Ranking("clip", score) if is_ranked else None)
    assert [one for one, _ in taken] == [
        ScoredCandidate(8 + i, Candidate("", i), 10.0 * i if is_ranked else None) for i in wanted
    ]
    assert [picture for _, picture in taken] == [pictures[i] for i in wanted]
    assert scored_together == [4] * is_ranked
