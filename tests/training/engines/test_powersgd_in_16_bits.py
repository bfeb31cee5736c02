"""PowerSGD whose errors, P and Q are 1-6-9: rounded where the paper says so, and nowhere else."""

import math

import pytest
import torch
from test_powersgd import (
    SHAPES,
    Gradients,
    assert_near,
    assert_same,
    compressor,
    compressors,
    copied,
    random_gradients,
    summed_over_ranks,
    together,
    update,
    updates,
)
from torch import Tensor

from dalle_cli.training.engines.powersgd import (
    IDENTITY_SHARE,
    P_SCALE,
    Q_SCALE,
    PowerSGD,
    SumOverRanks,
)
from dalle_cli.training.optimization.float_formats import FLOAT_1_6_9

HALF_STEP = 2.0**-10  # of a number, at most, that rounding to 1-6-9 changes


def rounded(numbers: Tensor, scale: float = 1.0) -> Tensor:
    """Round to 1-6-9 by frexp, on whose significands the grid is even; subnormals left out."""
    significands, exponents = torch.frexp(numbers.double() * scale)
    return torch.ldexp((significands * 2**10).round() / 2**10, exponents) / scale


def errors_of(powersgd: PowerSGD) -> Gradients:
    return {name: FLOAT_1_6_9.decode(codes) for name, codes in powersgd.errors.items()}


def compress_slowly(
    errors: list[Gradients], gradients: list[Gradients], starts: Gradients
) -> Gradients:
    """Restate an update in fp64, with a rounding for each number that is kept or sent.

    Errors are updated in place.
    """
    reduced = {}
    for name, start in starts.items():
        own = [(g[name].double() + e[name]) for g, e in zip(gradients, errors, strict=True)]
        is_tall = own[0].shape[0] > own[0].shape[1]
        wide = [matrix.T if is_tall else matrix for matrix in own]
        p = rounded(sum(rounded(m @ start.double(), P_SCALE) for m in wide), P_SCALE)
        p = p / p.abs().amax() + IDENTITY_SHARE * torch.eye(*p.shape, dtype=torch.float64)
        p = rounded(torch.linalg.qr(p).Q)
        q = rounded(sum(rounded(m.T @ p, Q_SCALE) for m in wide), Q_SCALE)
        low_rank = q @ p.T if is_tall else p @ q.T
        for error, accumulated in zip(errors, own, strict=True):
            error[name] = rounded(accumulated - low_rank / len(own))
        reduced[name] = low_rank
    return reduced


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_one_update_matches_a_statement_with_every_rounding(n_ranks: int) -> None:
    """A sum in fp32 may round otherwise than one in fp64 now and then: by one step at most."""
    ranks = compressors(n_ranks, in_16_bits=True)
    slow_errors = [{name: torch.zeros(SHAPES[name]).double() for name in SHAPES} for _ in ranks]
    gradients = [random_gradients(100 * rank) for rank in range(n_ranks)]
    expected = compress_slowly(slow_errors, gradients, ranks[0].starts)
    for (reduced,) in updates(ranks, range(1)):
        for name, matrix in expected.items():
            assert (reduced[name] - matrix).norm() <= 2 * HALF_STEP * matrix.norm(), name
            exact = (reduced[name] - matrix).abs() <= 1e-5 * matrix.abs().amax()
            assert exact.float().mean() > 0.5, "most numbers are rounded alike"
    for powersgd, slow in zip(ranks, slow_errors, strict=True):
        for name, error in errors_of(powersgd).items():
            assert (error - slow[name]).norm() <= 4 * HALF_STEP * slow[name].norm(), name


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_what_was_sent_and_what_is_kept_are_the_gradients_but_for_the_errors_rounding(
    n_ranks: int,
) -> None:
    """However coarse P and Q are: an update loses at most half a step of each rank's error."""
    ranks, n_updates = compressors(n_ranks, in_16_bits=True), 20
    sent = {name: torch.zeros(SHAPES[name]) for name in ranks[0].errors}
    bound = {name: torch.zeros(SHAPES[name]) for name in ranks[0].errors}
    for seed in range(n_updates):
        (output,) = updates(ranks, range(seed, seed + 1))[0]
        for name in sent:
            sent[name] += output[name]
            for powersgd in ranks:
                # half a step is at most 2**-10 of what was rounded, so a little more of the result
                bound[name] += 1.001 * HALF_STEP * errors_of(powersgd)[name].abs()

    for name in sent:
        true = sum(summed_over_ranks(n_ranks, seed)[name] for seed in range(n_updates))
        kept = sum(errors_of(powersgd)[name] for powersgd in ranks)
        missing = (sent[name] + kept - true).abs()
        assert (missing <= bound[name] + 1e-5 * true.abs().amax()).all(), name
        assert kept.norm() > 0.1 * true.norm(), "nothing was left unsent, so nothing was tested"


def test_16_bits_cost_little_of_what_is_sent() -> None:
    plain, small = compressor(), compressor(in_16_bits=True)
    for seed in range(20):
        gradients = random_gradients(seed)
        assert_near(update(small, gradients), update(plain, gradients), 0.02)
    assert_near(errors_of(small), plain.errors, 0.02)


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_all_ranks_get_the_same_bits(n_ranks: int) -> None:
    first, *others = updates(compressors(n_ranks, in_16_bits=True), range(4))
    for other in others:
        for left, right in zip(first, other, strict=True):
            assert_same(left, right)


def test_errors_p_and_q_take_two_bytes_and_matrices_that_do_not_shrink_four() -> None:
    powersgd, sizes = compressor(in_16_bits=True), []
    update(powersgd, random_gradients(0), lambda flat: sizes.append(flat.nbytes))
    assert {error.dtype for error in powersgd.errors.values()} == {torch.int16}
    assert sum(sizes) == powersgd.bytes_sent() and len(sizes) == 3
    assert powersgd.bytes_sent() == 2 * 3 * ((8 + 20) + (21 + 9) + 24) + 4 * 2 * 30


@pytest.mark.parametrize("factor", [2.0**-24, 2.0**-12, 2.0])
def test_the_scale_of_the_gradients_does_not_matter(factor: float) -> None:
    """From 1e-7 to 10; matrices alone, since the others know no range."""
    shapes = {name: SHAPES[name] for name in ("wide", "tall", "square")}
    ordinary, scaled = (compressor(shapes, in_16_bits=True) for _ in range(2))
    for seed in range(3):
        gradients = random_gradients(seed, shapes)
        output = update(ordinary, gradients)
        found = update(scaled, {name: factor * gradient for name, gradient in gradients.items()})
        assert_same({name: gradient / factor for name, gradient in found.items()}, output)


def test_an_all_zero_gradient_stays_zero() -> None:
    zeros = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    assert_same(update(compressor(in_16_bits=True), zeros), zeros)


def test_gradients_of_full_range_are_neither_lost_nor_infinite() -> None:
    """A matrix of two blocks, the largest numbers that errors hold next to very small ones."""
    gradient = torch.zeros(12, 12)
    gradient[:6, :6], gradient[6:, 6:] = 15.9, 2.0**-40
    powersgd = compressor({"w": (12, 12)}, rank=2, in_16_bits=True)
    reduced = update(powersgd, {"w": gradient})["w"]
    unsent = errors_of(powersgd)["w"]
    assert reduced.isfinite().all()
    assert ((reduced + unsent - gradient).abs() <= 1e-5 + HALF_STEP * unsent.abs()).all()


BAD = [(name, value) for name in SHAPES for value in (math.inf, -math.inf, math.nan)]
BAD += [(name, value) for name in ("wide", "tall", "square") for value in (32.0, 3e38)]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_batch_that_16_bits_cannot_hold_on_one_rank_is_skipped_by_all_without_a_trace(
    name: str, value: float
) -> None:
    ranks, others = (compressors(2, in_16_bits=True) for _ in range(2))
    updates(ranks, range(2))
    updates(others, range(2))

    def bad_update(rank: int, sum_over_ranks: SumOverRanks) -> Gradients:
        gradients = random_gradients(50 + rank)
        if rank == 1:
            gradients[name][1, 2] = value
        ranks[rank].reduce(gradients, sum_over_ranks)
        ranks[rank].settle(is_applied=False)
        return gradients

    for gradients in together(2, bad_update):
        assert all(gradient.isnan().all() for gradient in gradients.values())
    for powersgd, other in zip(ranks, others, strict=True):
        assert_same(powersgd.errors, other.errors)


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_a_resumed_run_equals_the_one_that_saved_and_went_on(n_ranks: int) -> None:
    ranks = compressors(n_ranks, in_16_bits=True)
    updates(ranks, range(3))
    unsent = {name: sum(errors_of(p)[name] for p in ranks) for name in ranks[0].errors}
    states = together(n_ranks, lambda rank, sum_over_ranks: ranks[rank].state(sum_over_ranks))
    assert_near(states[0], unsent, 1e-6)
    resumed = compressors(n_ranks, in_16_bits=True)
    for powersgd, state in zip(resumed, states, strict=True):
        assert_same(state, states[0])
        powersgd.restore(copied(state))
    for went_on, back in zip(
        updates(ranks, range(3, 6)), updates(resumed, range(3, 6)), strict=True
    ):
        for left, right in zip(went_on, back, strict=True):
            assert_same(left, right)


@pytest.mark.parametrize("in_16_bits", [False, True])
def test_errors_of_one_format_go_on_in_the_other(*, in_16_bits: bool) -> None:
    before, after = compressor(in_16_bits=not in_16_bits), compressor(in_16_bits=in_16_bits)
    update(before, random_gradients(0))
    state = before.state(lambda _: None)
    after.restore(state)
    restored = errors_of(after) if in_16_bits else after.errors
    assert_near(restored, state, HALF_STEP)
