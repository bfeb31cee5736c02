"""The order of samples: permutations all, near enough for a disk, and the same for ever."""

import math
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dalle_cli.data.shuffling import (
    BLOCKS_IN_WINDOW,
    SampleOrder,
    Stream,
    derive_seed,
    permute,
    sample_at,
    stream_at,
)

# below, exactly and above a window; with and without a short block or a short window at the end
SIZES = [
    *[
        (1, 1),
        (2, 1),
        (15, 1),
        (16, 1),
        (17, 1),
        (100, 1),
        (3, 4),
        (64, 4),
        (65, 4),
        (127, 4),
        (128, 4),
        (130, 4),
    ],
    *[
        (200, 4),
        (1000, 7),
        (1009, 7),
        (112, 7),
        (500, 64),
        (1024, 64),
        (1025, 64),
        (3000, 64),
        (10, 1000),
    ],
]


def epoch_of(number: int, n_samples: int, seed: int, block: int) -> list[int]:
    start = number * n_samples
    return [
        sample_at(position, n_samples, seed=seed, block=block)
        for position in range(start, start + n_samples)
    ]


def n_runs(samples: list[int], n_samples: int) -> int:
    """Count the stretches of consecutive samples, the last sample being followed by the first."""
    members = set(samples)
    return sum((sample + 1) % n_samples not in members for sample in members)


@given(st.integers(1, 600), st.integers(0, 2**63 - 1))
def test_permute_is_a_bijection(n: int, key: int) -> None:
    assert sorted(permute(i, n, key=key) for i in range(n)) == list(range(n))


@given(st.data(), st.integers(1, 2**40), st.integers(0, 2**63 - 1))
def test_permute_stays_in_large_ranges(data: st.DataObject, n: int, key: int) -> None:
    i = data.draw(st.integers(0, n - 1))
    assert 0 <= permute(i, n, key=key) < n


@pytest.mark.parametrize("place", [-1, 5, 8])
def test_place_outside_the_range_is_refused(place: int) -> None:
    with pytest.raises(ValueError, match=rf"position {place} is outside range\(5\)"):
        permute(place, 5, key=0)


def test_keys_choose_nearly_all_permutations_of_a_few_samples_about_equally_often() -> None:
    n_keys = 6000
    counts: dict[tuple[int, ...], int] = {}
    for number in range(n_keys):
        order = tuple(permute(i, 4, key=derive_seed(number)) for i in range(4))
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == math.factorial(4)
    assert n_keys / 24 / 2 < min(counts.values()) and max(counts.values()) < n_keys / 24 * 2


@pytest.mark.parametrize(("n_samples", "block"), SIZES)
@pytest.mark.parametrize("seed", [0, 7])
def test_every_epoch_takes_every_sample_once(n_samples: int, block: int, seed: int) -> None:
    for epoch in range(3):
        assert sorted(epoch_of(epoch, n_samples, seed, block)) == list(range(n_samples))


@given(st.integers(1, 400), st.integers(1, 30), st.integers(0, 10**9), st.integers(0, 1000))
def test_any_epoch_of_any_size_is_a_permutation(
    n_samples: int, block: int, seed: int, epoch: int
) -> None:
    assert sorted(epoch_of(epoch, n_samples, seed, block)) == list(range(n_samples))


@pytest.mark.parametrize(("n_samples", "block"), [(50, 4), (64, 4), (130, 4), (1000, 7)])
def test_epochs_and_seeds_differ(n_samples: int, block: int) -> None:
    orders = [
        tuple(epoch_of(epoch, n_samples, seed, block)) for epoch in range(4) for seed in range(3)
    ]
    assert len(set(orders)) == len(orders)
    agreeing = sum(a == b for a, b in zip(orders[0], orders[1], strict=True))
    assert agreeing < 10  # of two random permutations, one place agrees on average


def test_order_is_the_one_that_runs_have_been_started_with() -> None:
    assert [sample_at(position, 10, seed=0, block=4) for position in range(20)] == [
        *[4, 7, 2, 9, 1, 3, 5, 8, 0, 6],
        *[3, 0, 1, 2, 5, 7, 4, 9, 6, 8],
    ]
    assert [sample_at(position, 100, seed=7, block=4) for position in range(0, 200, 10)] == [
        *[71, 33, 88, 22, 34, 19, 67, 52, 13, 95],
        *[25, 42, 43, 35, 94, 28, 10, 32, 6, 46],
    ]
    assert [sample_at(position, 64, seed=0, block=4) for position in range(0, 64, 8)] == [
        9,
        60,
        45,
        26,
        31,
        29,
        25,
        15,
    ]
    assert [sample_at(position, 65, seed=0, block=4) for position in range(0, 65, 8)] == [
        3,
        29,
        34,
        14,
        62,
        27,
        59,
        56,
        51,
    ]
    positions = (0, 1, 1023, 1024, 999_999, 1_000_002, 1_000_003, 5_000_000)
    assert [sample_at(position, 1_000_003, seed=3, block=64) for position in positions] == [
        *[207539, 743086, 207502, 853568, 434737, 115252, 328348, 24750],
    ]


def test_hashes_are_the_ones_that_runs_have_been_started_with() -> None:
    assert (derive_seed(0, 1, "x"), derive_seed("a")) == (4064720121852967379, 2340832890917691671)
    assert [permute(i, 10, key=1234) for i in range(10)] == [4, 3, 1, 8, 2, 5, 7, 6, 0, 9]


def test_hashes_fit_63_bits_and_tell_their_arguments_apart() -> None:
    arguments = [
        (),
        (0,),
        (1,),
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 23),
        (12, 3),
        ("a",),
        ("ab",),
        ("a", "b"),
    ]
    hashes = [derive_seed(*parts) for parts in arguments]
    assert len(set(hashes)) == len(arguments) and all(0 <= value < 2**63 for value in hashes)


@pytest.mark.parametrize(("n_samples", "block"), [(1000, 7), (1009, 7), (3000, 64), (400, 4)])
def test_a_window_reads_at_most_16_stretches_of_consecutive_samples(
    n_samples: int, block: int
) -> None:
    window = block * BLOCKS_IN_WINDOW
    for epoch in range(3):
        order = epoch_of(epoch, n_samples, 0, block)
        for start in range(0, n_samples, window):
            assert n_runs(order[start : start + window], n_samples) <= BLOCKS_IN_WINDOW + 1


@pytest.mark.parametrize(("n_samples", "block"), [(3000, 7), (100, 16)])
def test_neighbours_in_the_order_are_rarely_neighbours_on_disk(n_samples: int, block: int) -> None:
    order = epoch_of(0, n_samples, 0, block)
    assert sum(abs(a - b) == 1 for a, b in pairwise(order)) < n_samples / 10


@pytest.mark.parametrize(("n_samples", "block"), [(10, 4), (50, 2)])
@pytest.mark.parametrize("place", [0, -1])
def test_first_and_last_sample_are_uniform_over_seeds(
    n_samples: int, block: int, place: int
) -> None:
    n_seeds = 200 * n_samples
    counts = [0] * n_samples
    for seed in range(n_seeds):
        counts[sample_at(place % n_samples, n_samples, seed=seed, block=block)] += 1
    chi_square = sum((count - 200) ** 2 / 200 for count in counts)
    assert chi_square < (n_samples - 1) + 5 * math.sqrt(2 * (n_samples - 1))


SHARES = [
    ["1"],
    ["1/2", "1/2"],
    ["0.7", "0.3"],
    ["0.001", "0.999"],
    ["0", "1/3", "0", "2/3", "0"],
    ["1/7", "2/7", "3/7", "1/7"],
]


@pytest.mark.parametrize("shares", SHARES, ids=str)
def test_streams_are_drawn_from_one_place_after_another_in_their_shares(shares: list[str]) -> None:
    fractions = [Fraction(share) for share in shares]
    drawn = [0] * len(shares)
    for position in range(2000):
        stream, place = stream_at(position, fractions)
        assert place == drawn[stream]
        drawn[stream] += 1
        for share, count in zip(fractions, drawn, strict=True):
            assert abs(count - (position + 1) * share) < len(shares)


@given(st.integers(0, 10**15), st.lists(st.integers(1, 10**6), min_size=1, max_size=5))
def test_any_position_draws_from_a_stream(position: int, weights: list[int]) -> None:
    shares = [Fraction(weight, sum(weights)) for weight in weights]
    stream, place = stream_at(position, shares)
    assert abs(place - position * shares[stream]) < len(shares)


def test_shares_that_do_not_sum_to_1_are_refused() -> None:
    with pytest.raises(ValueError, match="shares must sum to 1: 1/3, 1/3"):
        for position in range(3):
            stream_at(position, [Fraction(1, 3)] * 2)


def test_streams_in_proportion_to_their_sizes_take_every_sample_once_an_epoch() -> None:
    sizes = [50, 7, 130]
    streams = [Stream(n, Fraction(n, sum(sizes))) for n in sizes]
    order = SampleOrder(streams, seed=3, block=4)
    for epoch in range(3):
        positions = range(epoch * sum(sizes), (epoch + 1) * sum(sizes))
        samples = [next(order.candidates(position)) for position in positions]
        assert sorted(samples) == list(range(sum(sizes)))


def test_a_stream_keeps_the_order_of_its_epochs_whatever_its_share() -> None:
    def drawn(share: str) -> list[int]:
        streams = [Stream(10, 1 - Fraction(share)), Stream(20, Fraction(share))]
        order = SampleOrder(streams, seed=3, block=4)
        samples = [next(order.candidates(position)) for position in range(400)]
        return [sample for sample in samples if sample >= 10]

    rarely, often = drawn("0.1"), drawn("0.9")
    assert len(rarely) == 40 and len(often) == 360
    assert often[:40] == rarely
    assert sorted(rarely[:20]) == sorted(rarely[20:]) == list(range(10, 30))


def test_a_single_stream_is_in_the_order_of_its_samples() -> None:
    order = SampleOrder([Stream(10, Fraction(1))], seed=5, block=4)
    assert [next(order.candidates(position)) for position in range(30)] == [
        sample_at(position, 10, seed=5, block=4) for position in range(30)
    ]


def test_a_sample_is_replaced_by_others_of_its_stream() -> None:
    order = SampleOrder([Stream(6, Fraction(1, 4)), Stream(5, Fraction(3, 4))], seed=1, block=4)
    for position in range(40):
        candidates = list(order.candidates(position))
        assert sorted(candidates) in (list(range(6)), list(range(6, 11)))
