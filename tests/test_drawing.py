"""The painter: a picture depends on its caption, number and seed, and on nothing that is drawn before or beside it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dalle_cli.data.images import to_image
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.drawing import Candidate, Painter
from dalle_cli.errors import DalleError
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.models.transformer import Transformer
from dalle_cli.sampling import Sampler, SamplingSettings, candidate_uniforms

TEXT_LEN, GRID_SIZE, VOCAB_SIZE = 12, 4, 16
CAPTIONS = ["a ring", "a red circle", "", "a ring"]
CANDIDATES = [Candidate(caption, number) for caption in CAPTIONS for number in range(3)][:11]
SEED = 5
WIDTH = 4


@pytest.fixture(scope="module")
def painter() -> Painter:
    """Every parameter random, so that tokens and pictures depend on everything that they may depend on."""
    torch.manual_seed(0)
    tokenizer = Tokenizer([("r", "i"), ("ri", "n")], "tokenizers")
    dvae = DiscreteVAE(32, VOCAB_SIZE, n_hidden=4, n_init=4, n_groups=4, blocks_per_group=1)
    sizes = {"n_layers": 4, "d_model": 16, "n_heads": 2, "kernel_size": 3}
    transformer = Transformer(tokenizer.vocab_size, VOCAB_SIZE, TEXT_LEN, GRID_SIZE, **sizes)
    for parameter in (*transformer.parameters(), *dvae.parameters()):
        torch.nn.init.normal_(parameter, std=0.4)
    models = [model.eval().requires_grad_(False) for model in (transformer, dvae)]
    return Painter(*models, tokenizer, torch.device("cpu"))


def draw(painter: Painter, start: int, width: int = WIDTH) -> list[tuple[Candidate, Tensor, Image.Image]]:
    """Draw the candidates from a start on and list the wanted ones."""
    batches = list(painter.draw(CANDIDATES, start, width, SEED, SamplingSettings()))
    return [
        row
        for batch in batches
        for row in list(zip(batch.candidates, batch.image_tokens, batch.pictures, strict=True))[batch.wanted]
    ]


@pytest.mark.parametrize("start", range(len(CANDIDATES) + 1))
def test_drawing_from_a_start_equals_the_tail_of_drawing_everything(start: int, painter: Painter) -> None:
    for late, early in zip(draw(painter, start), draw(painter, 0)[start:], strict=True):
        assert late[0] == early[0] and torch.equal(late[1], early[1]) and late[2].tobytes() == early[2].tobytes()


@pytest.mark.parametrize("width", [3, 16])
def test_every_candidate_is_drawn_once_and_as_if_it_were_alone(width: int, painter: Painter) -> None:
    drawn = draw(painter, 0, width)
    assert [candidate for candidate, _, _ in drawn] == CANDIDATES
    for candidate, image_tokens, picture in drawn:
        uniforms = candidate_uniforms(SEED, candidate.caption, [candidate.number], GRID_SIZE**2)
        text_tokens = painter.text_tokens([candidate.caption])
        alone = Sampler(painter.transformer, SamplingSettings()).draw(text_tokens, uniforms)
        assert torch.equal(image_tokens, alone[0])
        expected = to_image(painter.dvae.decode(alone)[0])
        assert np.abs(np.asarray(picture, dtype=int) - np.asarray(expected, dtype=int)).max() <= 1  # by rounding


def test_every_candidate_begins_with_the_tokens_that_are_kept(painter: Painter) -> None:
    kept = torch.arange(GRID_SIZE**2).masked_fill(torch.arange(GRID_SIZE**2) >= 6, -1)
    batches = list(painter.draw(CANDIDATES, 0, WIDTH, SEED, SamplingSettings(), kept))
    tokens = torch.cat([batch.image_tokens for batch in batches])
    assert torch.equal(tokens[:, :6], torch.arange(6).expand(len(tokens), -1))
    assert len(set(map(tuple, tokens[:, 6:].tolist()))) == 9  # as many as there are different candidates


def test_pictures_differ_by_caption_and_by_number(painter: Painter) -> None:
    drawn = {candidate: picture.tobytes() for candidate, _, picture in draw(painter, 0)}
    assert len(drawn) == len(set(drawn.values())) == 9


def test_every_batch_has_the_decode_width(painter: Painter) -> None:
    """Bits depend on the shape of a multiplication, on some processors even where pictures happen to agree."""
    computed = set()
    parts = (painter.transformer.final_norm, painter.dvae.decoder.trunk)
    hooks = [part.register_forward_pre_hook(lambda own, given: computed.add((own, len(given[0])))) for part in parts]
    for start in (0, 5, 10):
        for batch in painter.draw(CANDIDATES, start, WIDTH, SEED, SamplingSettings()):
            fields = (batch.candidates, batch.text_tokens, batch.image_tokens, batch.pictures)
            assert [len(field) for field in fields] == [WIDTH] * 4
    for hook in hooks:
        hook.remove()
    assert computed == {(part, WIDTH) for part in parts}


@pytest.mark.parametrize("start", [1, 4, 7, 10])
def test_drawing_from_a_start_computes_the_very_batches_of_drawing_everything(start: int, painter: Painter) -> None:
    """Bits may also depend on what is multiplied beside them."""
    late, early = (list(painter.draw(CANDIDATES, i, WIDTH, SEED, SamplingSettings())) for i in (start, 0))
    assert [batch.candidates for batch in late] == [batch.candidates for batch in early][start // WIDTH :]
    assert [batch.wanted for batch in late[1:]] == [batch.wanted for batch in early][start // WIDTH + 1 :]


def test_nothing_is_drawn_before_it_is_asked_for_or_once_all_is_there(painter: Painter) -> None:
    calls = []
    hook = painter.dvae.decoder.trunk.register_forward_pre_hook(lambda *_: calls.append(1))
    batches = painter.draw(CANDIDATES, 0, WIDTH, SEED, SamplingSettings())
    counts = [len(calls)]
    for _ in batches:
        counts.append(len(calls))
    assert draw(painter, len(CANDIDATES)) == []
    hook.remove()
    assert counts == [0, 1, 2, 3] and len(calls) == 3


def test_captions_are_cut_and_filled_up_to_the_room_there_is(painter: Painter) -> None:
    encode = painter.tokenizer.encode
    long = "a ring " * 9
    expected = [[*encode(caption)[: TEXT_LEN - 1]] for caption in ("a ring", "", long)]
    rows = painter.text_tokens(["a ring", "", long]).tolist()
    assert rows == [ids + [-1] * (TEXT_LEN - len(ids)) for ids in expected]


def test_parts_that_speak_the_same_tokens_are_let_pass(painter: Painter) -> None:
    assert painter.check(Path("run")) is None


@pytest.mark.parametrize(
    ("part", "sizes", "message"),
    [
        ("dvae", (32, 17, 4, 4, 4, 1), "image vocabulary of 16 and of 17"),
        ("dvae", (64, VOCAB_SIZE, 4, 4, 4, 1), "token grid of 4 and of 8"),
        ("tokenizer", None, "text vocabulary of 259 and of 257"),
    ],
)
def test_parts_that_speak_other_tokens_are_told(part: str, sizes: tuple | None, message: str, painter: Painter) -> None:
    other = Tokenizer([], "tokenizers") if sizes is None else DiscreteVAE(*sizes)
    with pytest.raises(DalleError, match=f"the parts of some run don't belong together: {message}"):
        replace(painter, **{part: other}).check(Path("some run"))
