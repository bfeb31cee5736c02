"""How candidates become batches, and batches parts: against plain restatements."""

import itertools

import pytest

from dalle_cli.generation.pipeline import (
    Candidate,
    filled_batches,
    repeated_captions,
    requested_parts,
)

CANDIDATES = [Candidate("a ring", number) for number in range(11)]


@pytest.mark.parametrize("size", [1, 3, 4, 11, 30])
@pytest.mark.parametrize("requested", [set(range(11)), {0}, {2, 9}, {10}, set()], ids=str)
def test_batches_are_full_and_hold_what_is_requested(size: int, requested: set[int]) -> None:
    batches = filled_batches(CANDIDATES, requested, size)
    assert [first for first, _ in batches] == sorted({p // size * size for p in requested})
    for first, batch in batches:
        wrapped = [*range(first, min(first + size, 11)), *itertools.islice(
            itertools.cycle(range(11)), max(first + size - 11, 0))]  # fmt: skip
        assert batch == [CANDIDATES[i] for i in wrapped] and len(batch) == size


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_parts_hold_each_requested_position_once(size: int) -> None:
    requested = {4, 5, 9, 30}
    found = [
        4 + part.start + i for part, asked in requested_parts(4, 8, size, requested) for i in asked
    ]
    assert found == [4, 5, 9]
    for part, asked in requested_parts(4, 8, size, requested):
        assert part.start % size == 0 and part.stop - part.start <= size and asked


def test_repeated_captions_are_warned_of_once() -> None:
    warnings = list(repeated_captions(["a", "b", "a", "\x1b[31m", "\x1b[31m", "a"]))
    assert len(warnings) == 2 and warnings[0].startswith("caption given 3 times")
    assert "\x1b" not in warnings[1]
