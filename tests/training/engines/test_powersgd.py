"""PowerSGD against projections in fp64, the theory's bounds, and one rank in place of several."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
import torch
from torch import Tensor

from dalle_cli.training.engines.powersgd import PowerSGD, SumOverRanks, _orthonormal
from dalle_cli.training.optimization.float_formats import FLOAT_1_6_9

CPU = torch.device("cpu")
SHAPES = {"wide": (8, 20), "tall": (21, 9), "square": (12, 12), "thin": (2, 30)}
RANK = 3  # "thin" would not shrink
Gradients = dict[str, Tensor]
T = TypeVar("T")


def compressor(
    shapes: Mapping[str, tuple[int, int]] = SHAPES,
    rank: int = RANK,
    seed: int = 0,
    n_ranks: int = 1,
    *,
    in_16_bits: bool = False,
) -> PowerSGD:
    return PowerSGD(shapes, rank, seed=seed, n_ranks=n_ranks, device=CPU, in_16_bits=in_16_bits)


def compressors(n_ranks: int, *, in_16_bits: bool = False) -> list[PowerSGD]:
    return [compressor(n_ranks=n_ranks, in_16_bits=in_16_bits) for _ in range(n_ranks)]


def alone(_: Tensor) -> None:
    """Sum over one rank."""


def together(n_ranks: int, work: Callable[[int, SumOverRanks], T]) -> list[T]:
    """Run the ranks as threads; one that sums more often than the others breaks the barrier."""
    barrier = threading.Barrier(n_ranks, timeout=5)
    shown: list[Tensor] = [torch.empty(0)] * n_ranks

    def play(rank: int) -> T:
        def sum_over_ranks(tensor: Tensor) -> None:
            assert tensor.is_contiguous()
            shown[rank] = tensor.clone()
            barrier.wait()
            are_codes = tensor.dtype == torch.int16
            parts = [FLOAT_1_6_9.decode(part) for part in shown] if are_codes else shown
            total = torch.stack(parts).sum(dim=0)
            tensor.copy_(FLOAT_1_6_9.encode(total) if are_codes else total)
            barrier.wait()

        try:
            return work(rank, sum_over_ranks)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(n_ranks) as pool:
        return list(pool.map(play, range(n_ranks)))


def random_gradients(seed: int, shapes: Mapping[str, tuple[int, int]] = SHAPES) -> Gradients:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def copied(gradients: Gradients) -> Gradients:
    return {name: gradient.clone() for name, gradient in gradients.items()}


def update(
    powersgd: PowerSGD, gradients: Gradients, sum_over_ranks: SumOverRanks = alone
) -> Gradients:
    """Reduce copies of the gradients in place, as an update that is applied."""
    reduced = copied(gradients)
    powersgd.reduce(dict(reduced), sum_over_ranks)
    powersgd.settle(is_applied=True)
    return reduced


def updates(ranks: list[PowerSGD], seeds: range) -> list[list[Gradients]]:
    """Update all ranks once for each seed, with different gradients; results by rank and update."""

    def work(rank: int, sum_over_ranks: SumOverRanks) -> list[Gradients]:
        return [
            update(ranks[rank], random_gradients(100 * rank + seed), sum_over_ranks)
            for seed in seeds
        ]

    return together(len(ranks), work)


def summed_over_ranks(n_ranks: int, seed: int) -> Gradients:
    parts = [random_gradients(100 * rank + seed) for rank in range(n_ranks)]
    return {name: sum(part[name] for part in parts) for name in SHAPES}


def assert_same(left: Gradients, right: Gradients) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def assert_near(left: Gradients, right: Gradients, relative: float) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert (left[name] - right[name]).norm() <= relative * right[name].norm(), name


def compress_slowly(
    errors: list[Gradients], gradients: list[Gradients], starts: Gradients
) -> Gradients:
    """Restate an update in fp64: the sum's projection on the range of its product with Q0.

    Errors are updated in place.
    """
    reduced = {}
    for name in gradients[0]:
        own = [gradient[name].double() for gradient in gradients]
        if name not in starts:
            reduced[name] = sum(own)
            continue
        own = [gradient + error[name] for gradient, error in zip(own, errors, strict=True)]
        is_tall = own[0].shape[0] > own[0].shape[1]
        total = sum(own).T if is_tall else sum(own)
        p = total @ starts[name].double()
        projected = p @ torch.linalg.pinv(p) @ total
        reduced[name] = projected.T if is_tall else projected
        for error, accumulated in zip(errors, own, strict=True):
            error[name] = accumulated - reduced[name] / len(own)
    return reduced


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_updates_match_projections_in_double_precision(n_ranks: int) -> None:
    ranks = compressors(n_ranks)
    slow_errors = [
        {name: torch.zeros(SHAPES[name]).double() for name in ranks[0].errors} for _ in ranks
    ]
    for seed in range(5):
        expected = compress_slowly(
            slow_errors, [random_gradients(100 * r + seed) for r in range(n_ranks)], ranks[0].starts
        )
        for (reduced,) in updates(ranks, range(seed, seed + 1)):
            assert_near(reduced, expected, 1e-5)
        for powersgd, slow in zip(ranks, slow_errors, strict=True):
            assert_near(powersgd.errors, slow, 1e-5)


def test_the_names_of_the_matrices_that_would_not_shrink_are_known() -> None:
    powersgd = compressor({"even": (6, 6), "larger": (6, 7), "thin": (2, 30)}, rank=3)
    assert powersgd.uncompressed == ["even", "thin"]
    assert list(powersgd.errors) == ["larger"]


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (12, 12)])
@pytest.mark.parametrize("true_rank", [0, 1, 4])
def test_sums_of_no_higher_rank_come_out_exact(
    true_rank: int, shape: tuple[int, int], scale: float
) -> None:
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(n, true_rank, generator=generator) for n in shape)
    parts = torch.randn(2, true_rank, generator=generator)
    gradients = [{"w": scale * (left * part) @ right.T} for part in parts]
    ranks = [compressor({"w": shape}, rank=4, n_ranks=2) for _ in parts]
    total = gradients[0]["w"] + gradients[1]["w"]
    for reduced in together(
        2, lambda rank, total_of: update(ranks[rank], gradients[rank], total_of)
    ):
        assert (reduced["w"] - total).norm() <= 1e-5 * total.norm()


@pytest.mark.parametrize("true_rank", [0, 1, 3])
def test_columns_beyond_the_rank_are_orthonormal_and_do_not_hang_on_rounding(
    true_rank: int,
) -> None:
    """All ranks must come to the same ones, whatever the order in which each has added."""
    generator = torch.Generator().manual_seed(3)
    left, right, noise = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((12, true_rank), (true_rank, 4), (12, 4))
    )
    p = left @ right
    columns = _orthonormal(p)
    torch.testing.assert_close(columns.T @ columns, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(columns @ columns.T @ p, p, rtol=1e-5, atol=1e-5)
    rounded = p + 1e-14 * p.abs().amax() * noise
    torch.testing.assert_close(_orthonormal(rounded), columns, rtol=0, atol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_one_power_iteration_is_as_good_as_the_theory_of_random_projections_promises(
    decay: float,
) -> None:
    """Halko, Martinsson and Tropp 2011, theorem 10.5.

    For every k below r - 1 the mean squared error is at most 1 + k / (r - k - 1) of that of the
    best rank k; it is never below that of the best rank r.
    """
    rank, (m, n) = 6, (24, 40)
    generator = torch.Generator().manual_seed(2)
    left, right = (torch.linalg.qr(torch.randn(size, m, generator=generator)).Q for size in (m, n))
    values = torch.arange(1.0, m + 1) ** -decay
    matrix = (left * values) @ right.T
    squares = []
    for seed in range(60):
        reduced = update(compressor({"w": (m, n)}, rank, seed), {"w": matrix})["w"]
        assert torch.linalg.matrix_rank(reduced, rtol=1e-5) == rank
        squares.append(float((matrix - reduced).square().sum()))
    tails = [float(values[k:].square().sum()) for k in range(rank + 1)]
    bound = min((1 + k / (rank - k - 1)) * tails[k] for k in range(rank - 1))
    assert min(squares) >= tails[rank] * (1 - 1e-5)
    assert sum(squares) / len(squares) <= bound * (1 + 1e-5)


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_outputs_and_errors_add_up_to_the_gradients_so_far(n_ranks: int) -> None:
    ranks, seeds = compressors(n_ranks), range(20)
    outputs = updates(ranks, seeds)[0]
    for name in SHAPES:
        true = sum(summed_over_ranks(n_ranks, seed)[name] for seed in seeds)
        unsent = sum(powersgd.errors[name] for powersgd in ranks) if name in ranks[0].errors else 0
        sent = sum(output[name] for output in outputs)
        assert (sent + unsent - true).norm() <= 1e-5 * true.norm(), name
        if name in ranks[0].errors:
            assert (sent - true).norm() > 0.1 * true.norm(), (
                "nothing was left unsent, so nothing was tested"
            )


def test_what_was_sent_catches_up_with_noisy_gradients() -> None:
    """Without feedback most of the mean gradient is never sent; with it the gap stops growing."""
    mean, gaps = torch.randn(24, 40, generator=torch.Generator().manual_seed(3)), {}
    for has_feedback in (False, True):
        powersgd = compressor({"w": (24, 40)}, rank=4)
        sent = true = torch.zeros(24, 40)
        gaps[has_feedback] = []
        for seed in range(400):
            gradients = {"w": mean + random_gradients(seed, {"w": (24, 40)})["w"]}
            powersgd.reduce(reduced := copied(gradients), alone)
            powersgd.settle(is_applied=has_feedback)
            sent, true = sent + reduced["w"], true + gradients["w"]
            if seed + 1 in (100, 400):
                gaps[has_feedback].append(float((sent - true).norm() / true.norm()))
    assert min(gaps[False]) > 0.7
    assert gaps[True][0] < 0.15 and gaps[True][1] < 0.5 * gaps[True][0]


def test_a_gradient_that_never_changes_has_the_same_part_sent_each_time() -> None:
    """The price of a fixed Q0: its product with an error is zero, so that no direction is new."""
    powersgd, gradients = compressor(), random_gradients(0)
    first = update(powersgd, gradients)
    for n_updates in range(2, 6):
        assert_near(update(powersgd, gradients), first, 1e-4)
        unsent = {name: n_updates * (gradients[name] - first[name]) for name in powersgd.errors}
        assert_near(powersgd.errors, unsent, 1e-4)


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_several_ranks_are_one_rank_with_the_summed_gradients(n_ranks: int) -> None:
    ranks, single = compressors(n_ranks), compressor()
    seeds = range(6)
    outputs = updates(ranks, seeds)[0]
    for seed, output in zip(seeds, outputs, strict=True):
        assert_near(output, update(single, summed_over_ranks(n_ranks, seed)), 1e-5)
    assert_near(
        {name: sum(p.errors[name] for p in ranks) for name in single.errors}, single.errors, 1e-5
    )


def test_who_computed_which_part_of_the_gradient_does_not_matter() -> None:
    whole = random_gradients(0)
    nothing = {name: torch.zeros_like(gradient) for name, gradient in whole.items()}
    halves = {name: gradient / 2 for name, gradient in whole.items()}
    outcomes = []
    for shares in ([whole, nothing], [halves, halves]):
        ranks = compressors(2)
        outcomes.append(
            together(
                2, lambda r, total, ranks=ranks, shares=shares: update(ranks[r], shares[r], total)
            )[0]
        )
    assert_near(outcomes[0], outcomes[1], 1e-5)


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_all_ranks_get_the_same_bits(n_ranks: int) -> None:
    first, *others = updates(compressors(n_ranks), range(4))
    for other in others:
        for left, right in zip(first, other, strict=True):
            assert_same(left, right)


def test_a_transposed_matrix_is_compressed_to_the_transpose() -> None:
    gradient = random_gradients(0)["tall"]
    tall = update(compressor({"w": (21, 9)}), {"w": gradient})["w"]
    wide = update(compressor({"w": (9, 21)}), {"w": gradient.T.contiguous()})["w"]
    torch.testing.assert_close(tall, wide.T, rtol=1e-5, atol=1e-6)


def test_the_scale_of_the_gradients_does_not_matter() -> None:
    ordinary, small = compressor(), compressor()
    factor = 2.0**-60
    for seed in range(3):
        gradients = random_gradients(seed)
        output = update(ordinary, gradients)
        tiny = update(small, {name: factor * gradient for name, gradient in gradients.items()})
        assert_same({name: gradient / factor for name, gradient in tiny.items()}, output)


def test_results_depend_on_the_seed_and_on_a_matrixs_own_name_alone() -> None:
    gradients = random_gradients(0)
    first, again, other = (update(compressor(seed=seed), gradients) for seed in (0, 0, 1))
    assert_same(first, again)
    assert not torch.equal(first["wide"], other["wide"])
    wide_alone = update(compressor({"wide": SHAPES["wide"]}), {"wide": gradients["wide"]})
    assert torch.equal(wide_alone["wide"], first["wide"])


def test_matrices_alike_are_projected_differently() -> None:
    gradient = random_gradients(0)["wide"]
    reduced = update(
        compressor({"one": (8, 20), "other": (8, 20)}), {"one": gradient, "other": gradient}
    )
    assert not torch.allclose(reduced["one"], reduced["other"])


def test_an_all_zero_gradient_stays_zero() -> None:
    zeros = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    assert_same(update(compressor(), zeros), zeros)


@pytest.mark.parametrize("rank", [1, 8, 20])
def test_a_transformer_blocks_bytes_follow_the_papers_formula(rank: int) -> None:
    """Ramesh et al. 2021, table 2, for one shard a machine: r (m + 2) / (2 d m) with m = 1."""
    d = 64
    block = {name: (d, d) for name in ("query", "key", "value", "output")}
    powersgd = compressor({**block, "expand": (4 * d, d), "contract": (d, 4 * d)}, rank)
    assert powersgd.uncompressed_bytes() == 4 * 12 * d * d
    assert powersgd.bytes_sent() / powersgd.uncompressed_bytes() == pytest.approx(
        rank * 3 / (2 * d), abs=1e-12
    )


@pytest.mark.parametrize("shapes", [SHAPES, {"thin": (2, 30)}, {"wide": (8, 20)}, {}])
def test_bytes_sent_are_those_that_are_summed(shapes: dict[str, tuple[int, int]]) -> None:
    powersgd, sizes = compressor(shapes), []
    update(
        powersgd,
        random_gradients(0, shapes),
        lambda flat: sizes.append(flat.numel() * flat.element_size()),
    )
    assert sum(sizes) == powersgd.bytes_sent() and len(sizes) <= 2
    sent = {"wide": 3 * (8 + 20), "tall": 3 * (21 + 9), "square": 3 * 24, "thin": 2 * 30}
    assert powersgd.bytes_sent() == 4 * sum(sent[name] for name in shapes)


def spoiled(gradients: Gradients, name: str, value: float) -> Gradients:
    gradients[name][1, 2] = value
    return gradients


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 3e38])
@pytest.mark.parametrize("name", SHAPES)
def test_a_bad_batch_on_one_rank_spoils_that_update_on_all_and_leaves_no_trace(
    name: str, value: float
) -> None:
    """3e38 is finite, and overflows on the way: in P, or where both ranks have it."""
    ranks, others = compressors(2), compressors(2)
    updates(ranks, range(2))
    updates(others, range(2))

    def bad_update(rank: int, sum_over_ranks: SumOverRanks) -> Gradients:
        gradients = random_gradients(50 + rank)
        if rank == 1 or value == 3e38:
            spoiled(gradients, name, value)
        ranks[rank].reduce(gradients, sum_over_ranks)
        ranks[rank].settle(is_applied=False)
        return gradients

    for gradients in together(2, bad_update):
        assert all(gradient.isnan().all() for gradient in gradients.values())
    for powersgd, other in zip(ranks, others, strict=True):
        assert_same(powersgd.errors, other.errors)
    for left, right in zip(updates(ranks, range(2, 4)), updates(others, range(2, 4)), strict=True):
        for reduced, expected in zip(left, right, strict=True):
            assert_same(reduced, expected)


def test_an_overflow_in_q_alone_spoils_the_update_and_not_the_errors() -> None:
    """A column of large numbers, where Q0 is small: P is finite, its products with it are not."""
    powersgd = compressor({"w": (16, 40)})
    column = int(powersgd.starts["w"].abs().amax(dim=1).argmin())
    gradients = {"w": torch.zeros(16, 40)}
    gradients["w"][:, column] = 2e38
    assert (gradients["w"] @ powersgd.starts["w"]).isfinite().all()
    powersgd.reduce(gradients, alone)
    powersgd.settle(is_applied=True)
    assert gradients["w"].isnan().all()
    assert_same(powersgd.errors, compressor({"w": (16, 40)}).errors)


@pytest.mark.parametrize("is_told", [False, True])
def test_an_update_skipped_for_other_reasons_leaves_no_trace(is_told: bool) -> None:
    """Whether it was told of, or the run's next update came at once."""
    powersgd, other = compressor(), compressor()
    for seed in range(4):
        powersgd.reduce(random_gradients(10 + seed), alone)
        if is_told:
            powersgd.settle(is_applied=False)
        assert_same(update(powersgd, random_gradients(seed)), update(other, random_gradients(seed)))


def test_clipping_the_result_does_not_change_the_errors() -> None:
    powersgd, other = compressor(), compressor()
    gradients = random_gradients(0)
    powersgd.reduce(gradients, alone)
    for gradient in gradients.values():
        gradient.mul_(0.01)
    powersgd.settle(is_applied=True)
    update(other, random_gradients(0))
    assert_same(powersgd.errors, other.errors)


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_a_resumed_run_equals_the_one_that_saved_and_went_on(n_ranks: int) -> None:
    ranks = compressors(n_ranks)
    updates(ranks, range(3))
    states = together(n_ranks, lambda rank, sum_over_ranks: ranks[rank].state(sum_over_ranks))
    resumed = compressors(n_ranks)
    for powersgd, state in zip(resumed, states, strict=True):
        assert_same(state, states[0])
        powersgd.restore(state)
    for went_on, back in zip(
        updates(ranks, range(3, 6)), updates(resumed, range(3, 6)), strict=True
    ):
        for left, right in zip(went_on, back, strict=True):
            assert_same(left, right)


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1), (1, 2)])
def test_a_saved_sum_survives_a_change_of_the_number_of_ranks(before: int, after: int) -> None:
    ranks = compressors(before)
    updates(ranks, range(3))
    unsent = {name: sum(powersgd.errors[name] for powersgd in ranks) for name in ranks[0].errors}
    state = together(before, lambda rank, sum_over_ranks: ranks[rank].state(sum_over_ranks))[0]
    resumed = compressors(after)
    for powersgd in resumed:
        powersgd.restore(state)
    assert_near(
        {name: sum(powersgd.errors[name] for powersgd in resumed) for name in unsent}, unsent, 1e-6
    )

    single = compressor()
    single.restore(unsent)
    output = updates(resumed, range(3, 4))[0][0]
    assert_near(output, update(single, summed_over_ranks(after, 3)), 1e-5)


def test_what_was_saved_does_not_change_afterwards() -> None:
    powersgd = compressor()
    update(powersgd, random_gradients(0))
    state = powersgd.state(alone)
    kept = copied(state)
    other = compressor()
    other.restore(state)
    for runner in (powersgd, other):
        update(runner, random_gradients(1))
    assert_same(state, kept)


def test_errors_of_what_is_no_longer_compressed_go_with_the_next_update_applied() -> None:
    coarse, fine = compressor(), compressor(rank=20)  # which compresses nothing
    update(coarse, random_gradients(0))
    fine.restore(coarse.state(alone))
    assert set(fine.errors) == set(coarse.errors)
    gradients = random_gradients(1)
    fine.reduce(copied(gradients), alone)
    fine.settle(is_applied=False)
    expected = {name: gradient + coarse.errors.get(name, 0) for name, gradient in gradients.items()}
    assert_same(update(fine, gradients), expected)
    assert not fine.errors


def test_what_is_compressed_anew_starts_without_errors() -> None:
    fine, coarse = compressor(rank=20), compressor()
    update(fine, random_gradients(0))
    update(coarse, random_gradients(0))
    coarse.restore(fine.state(alone))
    assert_same(update(coarse, random_gradients(1)), update(compressor(), random_gradients(1)))


def test_states_and_gradients_that_do_not_fit_are_named() -> None:
    powersgd = compressor()
    state = powersgd.state(alone)
    state["square"] = torch.zeros(1, 12)
    state["stranger"] = state.pop("tall")
    with pytest.raises(ValueError, match="2 errors do not fit: square, stranger"):
        powersgd.restore(state)
    gradients = random_gradients(0)
    del gradients["thin"]
    with pytest.raises(ValueError, match="expected"):
        powersgd.reduce(gradients, alone)
