"""The painter.

A picture depends on its caption, number and seed, and on nothing that is drawn before or beside it.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dalle_cli.data.images import to_image
from dalle_cli.data.text.known_words import KnownWords
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.errors import DalleError
from dalle_cli.generation.dalle import DallePipeline, TokenBatch
from dalle_cli.generation.pipeline import BatchSizes, Candidate, Pipeline
from dalle_cli.generation.sampling import Sampler, SamplingSettings, candidate_uniforms
from dalle_cli.loading import check_parts_match
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.models.transformer import Transformer

PIPELINE = [name for name in vars(Pipeline) if not name.startswith("_")]
TEXT_LEN, GRID_SIZE, VOCAB_SIZE = 12, 4, 16
CAPTIONS = ["a ring", "a red circle", "", "a ring"]
CANDIDATES = [Candidate(caption, number) for caption in CAPTIONS for number in range(3)][:11]
ALL = range(len(CANDIDATES))
SEED = 5
WIDTHS = BatchSizes(sampling=4, decoding=4)


@pytest.fixture(scope="module")
def painter() -> DallePipeline:
    """Every parameter is random, so that everything depends on everything that it may."""
    torch.manual_seed(0)
    tokenizer = Tokenizer([("r", "i"), ("ri", "n")], "tokenizers")
    dvae = DiscreteVAE(32, VOCAB_SIZE, n_hidden=4, n_init=4, n_groups=4, blocks_per_group=1)
    sizes = {"n_layers": 4, "d_model": 16, "n_heads": 2, "kernel_size": 3}
    transformer = Transformer(tokenizer.vocab_size, VOCAB_SIZE, TEXT_LEN, GRID_SIZE, **sizes)
    for parameter in (*transformer.parameters(), *dvae.parameters()):
        torch.nn.init.normal_(parameter, std=0.4)
    models = [model.eval().requires_grad_(False) for model in (transformer, dvae)]
    return DallePipeline(*models, tokenizer, torch.device("cpu"), seed=SEED)


def slices(
    painter: DallePipeline, places: Sequence[int], widths: BatchSizes = WIDTHS
) -> list[TokenBatch]:
    return list(painter.generate(CANDIDATES, places, widths))


def draw(
    painter: DallePipeline, places: Sequence[int] = ALL, widths: BatchSizes = WIDTHS
) -> dict[int, tuple[Candidate, list[int], bytes]]:
    """Draw the candidates at these places and give each with its tokens and its picture."""
    drawn = {}
    for one in slices(painter, places, widths):
        for i in one.requested:
            assert one.position + i not in drawn
            drawn[one.position + i] = (
                one.candidates[i],
                one.image_tokens[i].tolist(),
                one.pictures[i].tobytes(),
            )
    assert list(drawn) == sorted(drawn)
    return drawn


@pytest.mark.parametrize(
    "places", [range(5, 11), range(10, 11), range(0), [1, 2, 9], [3, 4, 7]], ids=str
)
def test_some_are_drawn_as_among_all(places: Sequence[int], painter: DallePipeline) -> None:
    everything = draw(painter)
    assert draw(painter, places) == {place: everything[place] for place in places}


@pytest.mark.thorough
@pytest.mark.parametrize(
    "widths",
    [BatchSizes(3, 3), BatchSizes(16, 16), BatchSizes(16, 5), BatchSizes(4, 1), BatchSizes(2, 9)],
    ids=str,
)
def test_every_candidate_is_drawn_once_and_as_if_it_were_alone(
    widths: BatchSizes, painter: DallePipeline
) -> None:
    drawn = draw(painter, ALL, widths)
    assert [candidate for candidate, _, _ in drawn.values()] == CANDIDATES
    for candidate, image_tokens, picture in drawn.values():
        uniforms = candidate_uniforms(
            SEED, candidate.caption, numbers=[candidate.number], n_tokens=GRID_SIZE**2
        )
        text_tokens = painter.text_tokens([candidate.caption])
        alone = Sampler(painter.transformer, SamplingSettings()).sample(text_tokens, uniforms)
        assert image_tokens == alone[0].tolist()
        expected = np.asarray(to_image(painter.dvae.decode(alone)[0]), dtype=int).flatten()
        assert np.abs(np.frombuffer(picture, np.uint8) - expected).max() <= 1  # by rounding


def test_every_candidate_begins_with_the_tokens_that_are_kept(painter: DallePipeline) -> None:
    kept = torch.arange(GRID_SIZE**2).masked_fill(torch.arange(GRID_SIZE**2) >= 6, -1)
    drawn = list(replace(painter, kept_tokens=kept).generate(CANDIDATES, ALL, WIDTHS))
    tokens = torch.cat([one.image_tokens for one in drawn])
    assert torch.equal(tokens[:, :6], torch.arange(6).expand(len(tokens), -1))
    assert (
        len(set(map(tuple, tokens[:, 6:].tolist()))) == 9
    )  # as many as there are different candidates


def test_progress_is_that_of_all_batches(painter: DallePipeline) -> None:
    shares: list[float] = []
    drawn = list(replace(painter, on_progress=shares.append).generate(CANDIDATES, ALL, WIDTHS))
    n_steps = len(drawn) * GRID_SIZE**2
    assert len(drawn) == 3
    assert shares == pytest.approx([(i + 1) / n_steps for i in range(n_steps)])


def test_pictures_differ_by_caption_and_by_number(painter: DallePipeline) -> None:
    drawn = {candidate: picture for candidate, _, picture in draw(painter).values()}
    assert len(drawn) == len(set(drawn.values())) == 9


@pytest.mark.parametrize("width", [4, 2])
def test_batches_and_slices_are_always_equally_wide(width: int, painter: DallePipeline) -> None:
    """Bits depend on the shape of a multiplication, on some processors even where pictures happen
    to agree.
    """
    computed = set()
    parts = (painter.transformer.final_norm, painter.dvae.decoder.trunk)
    hooks = [
        part.register_forward_pre_hook(lambda own, given: computed.add((own, len(given[0]))))
        for part in parts
    ]
    for places in (ALL, [5], [2, 10]):
        for one in slices(painter, places, BatchSizes(4, width)):
            fields = (one.candidates, one.text_tokens, one.image_tokens, one.pictures)
            assert [len(field) for field in fields] == [width] * 4
    for hook in hooks:
        hook.remove()
    assert computed == {(parts[0], 4), (parts[1], width)}


@pytest.mark.parametrize("places", [range(1, 11), range(7, 11), [2, 9]], ids=str)
def test_what_is_drawn_beside_a_candidate_does_not_depend_on_which_are_wanted(
    places: Sequence[int], painter: DallePipeline
) -> None:
    """Bits may also depend on what is multiplied beside them."""
    of_all = {one.position: one.candidates for one in slices(painter, ALL, BatchSizes(4, 2))}
    for one in slices(painter, places, BatchSizes(4, 2)):
        assert one.candidates == of_all[one.position]


def test_nothing_is_drawn_before_it_is_asked_for_or_once_all_is_there(
    painter: DallePipeline,
) -> None:
    calls = []
    hook = painter.dvae.decoder.trunk.register_forward_pre_hook(lambda *_: calls.append(1))
    batches = painter.generate(CANDIDATES, ALL, WIDTHS)
    counts = [len(calls)]
    for _ in batches:
        counts.append(len(calls))
    assert draw(painter, []) == {}
    hook.remove()
    assert counts == [0, 1, 2, 3] and len(calls) == 3


def test_captions_are_cut_and_filled_up_to_the_room_there_is(painter: DallePipeline) -> None:
    encode = painter.tokenizer.encode
    long = "a ring " * 9
    expected = [[*encode(caption)[: TEXT_LEN - 1]] for caption in ("a ring", "", long)]
    rows = painter.text_tokens(["a ring", "", long]).tolist()
    assert rows == [ids + [-1] * (TEXT_LEN - len(ids)) for ids in expected]


def test_parts_of_the_same_vocabularies_match(painter: DallePipeline) -> None:
    parts = (painter.transformer, painter.dvae, painter.tokenizer)
    check_parts_match(*parts, run=Path("run"))


@pytest.mark.parametrize(
    ("part", "sizes", "message"),
    [
        ("dvae", (32, 17, 4, 4, 4, 1), "image vocabulary of 16 and of 17"),
        ("dvae", (64, VOCAB_SIZE, 4, 4, 4, 1), "token grid of 4 and of 8"),
        ("tokenizer", None, "text vocabulary of 259 and of 257"),
    ],
)
def test_parts_of_other_vocabularies_are_refused(
    part: str, sizes: tuple | None, message: str, painter: DallePipeline
) -> None:
    other = Tokenizer([], "tokenizers") if sizes is None else DiscreteVAE(*sizes)
    changed = replace(painter, **{part: other})
    parts = (changed.transformer, changed.dvae, changed.tokenizer)
    with pytest.raises(DalleError, match=f"the parts of some run don't belong together: {message}"):
        check_parts_match(*parts, run=Path("some run"))


def test_dalle_is_a_pipeline(painter: DallePipeline) -> None:
    """Whatever a job asks of a pipeline is there."""
    pipeline: Pipeline = painter
    assert all(hasattr(pipeline, name) for name in PIPELINE)


def unknown_words(painter: DallePipeline, captions: list[str], known: KnownWords) -> list[str]:
    return list(replace(painter, known_words=known).warnings(captions))


def test_words_that_were_never_trained_on_are_warned_of_by_caption(painter: DallePipeline) -> None:
    known = KnownWords(frozenset({"a", "ring"}))
    assert list(painter.warnings(["a zoo"])) == []  # the run has not recorded its words
    captions = ["a zoo", "A Ring.", "an ox"]
    assert unknown_words(painter, captions, known) == [
        'never seen in training: "zoo"',
        'never seen in training: "an", "ox"',
    ]
    partly_known = replace(known, is_complete=False)
    assert unknown_words(painter, ["a zoo"], partly_known) == [
        'not among the 2 most frequent words of training: "zoo"'
    ]


def test_warnings_of_unknown_words_are_few_and_short(painter: DallePipeline) -> None:
    known = KnownWords(frozenset({"a"}))
    warned = unknown_words(painter, [f"a{i}" for i in range(100)], known)
    assert len(warned) == 6 and warned[-1] == "and 95 more captions with such words"
    letters = " ".join("bcdefghijk")
    [warning] = [w for w in unknown_words(painter, [letters], known) if "never" in w]
    assert warning.endswith('"i", and 2 more')
    [warning] = [w for w in unknown_words(painter, ["b" * 500], known) if "never" in w]
    assert len(warning) < 80
