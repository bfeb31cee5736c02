"""What a browser may ask for: usual values, bounds, and refusals."""

from typing import Any

import pytest

from dalle_cli.errors import UsageError
from dalle_cli.serving.picture_request import (
    MAX_CAPTION,
    MAX_SEED,
    PictureRequest,
    kept_rows_field,
    number_fields,
    read_request,
)
from dalle_cli.storage.model_about import SamplingAdvice


def read(facts: object) -> PictureRequest:
    return read_request(
        facts, rankings=("clip", "perplexity"), grid_size=16, advice=SamplingAdvice()
    )


def test_caption_alone_is_enough() -> None:
    request = read({"caption": "a ring"})
    assert (request.caption, request.n, request.first, request.best) == ("a ring", 4, 0, 0)
    assert (request.temperature, request.guidance, request.rank) == (1, 1, None)
    assert request.image is None and request.keep_rows is None


def test_usual_sampling_is_what_the_author_advises() -> None:
    advice = SamplingAdvice(temperature=0.7, guidance=3)
    request = read_request({"caption": "a ring"}, rankings=(), grid_size=4, advice=advice)
    assert (request.temperature, request.guidance) == (0.7, 3)


def test_every_request_without_a_seed_has_a_new_one() -> None:
    seeds = {read({"caption": "a ring"}).seed for _ in range(20)}
    assert len(seeds) > 10 and all(0 <= seed < 2**31 for seed in seeds)
    assert read({"caption": "a ring", "seed": 0}).seed == 0


def test_captions_are_those_of_the_command_line() -> None:
    """Control characters go, so that the same caption gives the same pictures."""
    assert read({"caption": "  a\nred \x1b\u202e ring "}).caption == "a red  ring"


def test_everything_may_be_asked_for() -> None:
    asked = {
        "caption": "a ring",
        "n": 64,
        "first": 8,
        "seed": -MAX_SEED,
        "temperature": 0.5,
        "guidance": 2,
        "best": 3,
        "rank": "perplexity",
        "image": "0a",
        "keep_rows": 15,
    }
    assert read(asked) == PictureRequest(**asked)


def test_rows_to_keep_are_fifteen_of_thirty_two_by_default() -> None:
    assert read({"caption": "a ring", "image": "0a"}).keep_rows == 7
    assert [kept_rows_field(side).value for side in (1, 2, 4, 32)] == [1, 1, 1, 15]


@pytest.mark.parametrize("field", number_fields(SamplingAdvice()), ids=lambda field: field.name)
def test_numbers_have_bounds(field: Any) -> None:
    rank = {"rank": "clip", "n": 64} if field.name == "best" else {}
    for value in (field.low, field.high):
        read({"caption": "a ring", **rank, field.name: value})
    for value in (field.low - 1, field.high + 1, 10**400, -(10**400)):
        with pytest.raises(UsageError, match=f"`{field.name}` must be"):
            read({"caption": "a ring", **rank, field.name: value})


@pytest.mark.parametrize("value", ["4", True, [], {}, float("nan"), float("inf"), 2.5])
@pytest.mark.parametrize("name", ["n", "seed", "temperature"])
def test_what_is_no_number_is_refused(name: str, value: object) -> None:
    if name == "temperature" and value == 2.5:
        assert read({"caption": "a ring", name: value}).temperature == 2.5
        return
    with pytest.raises(UsageError, match=f"`{name}` must be"):
        read({"caption": "a ring", name: value})


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ([], "a request is a JSON object"),
        (None, "a request is a JSON object"),
        ({}, "there is no caption"),
        ({"caption": 3}, "there is no caption"),
        ({"caption": " \n"}, "there is no caption"),
        ({"caption": "\x1b\u202e"}, "there is no caption"),
        ({"caption": "x" * (MAX_CAPTION + 1)}, "1,001 characters: at most 1,000"),
        ({"caption": "\ud800"}, "the caption can't be used"),
        ({"caption": "x", "colour": 1}, "no such field: colour"),
        ({"caption": "x", "\x1b[2J" * 99: 1}, "no such field: \ufffd"),
        ({"caption": "x", "rank": "size"}, "can't rank"),
        ({"caption": "x", "rank": "caption"}, "can't rank"),
        ({"caption": "x", "rank": ["clip"]}, "can't rank"),
        ({"caption": "x", "best": 1}, "nothing says which are the best"),
        ({"caption": "x", "n": 2, "best": 3, "rank": "clip"}, "3 of 2 pictures"),
        ({"caption": "x", "keep_rows": 3}, "no picture of which rows"),
        ({"caption": "x", "image": 3}, "id of an uploaded picture"),
        ({"caption": "x", "image": "0a", "keep_rows": 16}, "`keep_rows` must be 1 to 15"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_right_is_refused(facts: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(facts)
