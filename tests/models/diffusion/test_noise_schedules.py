"""Noise schedules against published numbers and a plain restatement in Python's floats."""

import math

import pytest
import torch
from torch import Tensor

from dalle_cli.models.diffusion.noise_schedules import (
    NoiseSchedule,
    cosine_betas,
    fast_27_steps,
    linear_betas,
    noise_schedule,
    strided_steps,
    table_entries,
)

# beta, alpha_bar, posterior variance, its clipped logarithm
COSINE = {
    0: (4.1284224822e-05, 9.9995871578e-01, 0.0, -10.73408253),
    1: (4.6141752737e-05, 9.9991257593e-01, 2.1789496146e-05, -10.73408253),
    10: (8.9871362453e-05, 9.9927890377e-01, 7.8677623370e-05, -9.45015177),
    100: (5.3189915570e-04, 9.7157568181e-01, 5.2222359272e-04, -7.55741472),
    250: (1.3272239542e-03, 8.4588798650e-01, 1.3175424782e-03, -6.63198704),
    500: (3.1556914416e-03, 4.9228517245e-01, 3.1460051255e-03, -5.76162185),
    750: (7.5791226547e-03, 1.4317864643e-01, 7.5694503505e-03, -4.88363482),
    900: (1.9741855872e-02, 2.3616108794e-02, 1.9732239235e-02, -3.92550147),
    990: (1.8998754207e-01, 1.9671738012e-04, 1.8997877435e-01, -1.66084293),
    998: (7.4999939290e-01, 2.4287669070e-06, 7.4999392818e-01, -0.28769017),
    999: (9.99e-01, 2.4287669070e-09, 9.9899757609e-01, -0.00100293),
}
LINEAR = {
    0: (1e-04, 9.9990000000e-01, 0.0, -9.81672514),
    1: (1.1991991992e-04, 9.9978009207e-01, 5.4531876613e-05, -9.81672514),
    100: (2.0919919920e-03, 8.9514159090e-01, 2.0545535300e-03, -6.18769671),
    250: (5.0799799800e-03, 5.2142303062e-01, 5.0517198441e-03, -5.28802653),
    500: (1.0059959960e-02, 7.7796658365e-02, 1.0051335779e-02, -4.60004974),
    750: (1.5039939940e-02, 3.3001583616e-03, 1.5039179537e-02, -4.19709651),
    999: (2e-02, 4.0358297654e-05, 1.9999983527e-02, -3.91202383),
}
SUMS = {  # of alpha_bar, and of beta
    "cosine": ("495.5775125825", "12.4414964171"),
    "linear": ("275.5132334", "10.05"),
}
GRIDS = {
    7: [0, 166, 333, 500, 666, 832, 999],
    15: [0, 71, 143, 214, 285, 357, 428, 500, 571, 642, 714, 785, 856, 928, 999],
    27: [
        *[0, 38, 77, 115, 154, 192, 231, 269, 307, 346, 384, 423, 461, 499, 538, 576, 615, 653],
        *[692, 730, 768, 807, 845, 884, 922, 961, 999],
    ],
}
FAST_27 = [
    *[0, 22, 44, 66, 88, 111, 133, 155, 177, 199, 200, 222, 244, 266, 288, 311, 333, 355, 377],
    *[399, 400, 500, 599, 600, 799, 800, 997],
]
RESPACED = [  # grid, index, step; beta, posterior variance, weights of the clean and noisy sample
    ("cosine", 64, 1, 16, 1.3205498698e-03, 4.0034289429e-05, 0.9697036386, 0.0302963546),
    ("cosine", 64, 32, 507, 4.6308063111e-02, 4.4220966582e-02, 0.0634375363, 0.9325576093),
    ("cosine", 64, 63, 999, 9.9999609294e-01, 9.9937446180e-01, 0.0249325318, 0.0019753988),
    ("cosine", 250, 125, 502, 1.5679340336e-02, 1.5440174070e-02, 0.0216377032, 0.9769958195),
    ("cosine", 27, 13, 499, 1.0692523893e-01, 9.4434810842e-02, 0.1570891867, 0.8346334639),
    ("linear", 15, 7, 500, 4.9164586590e-01, 4.5153401752e-01, 0.2085561455, 0.6548189858),
    ("linear", 15, 14, 999, 7.4940197172e-01, 7.4931152301e-01, 0.0095106446, 0.5005372517),
]


def digits(value: Tensor | float, n: int) -> str:
    return f"{float(value):.{n}e}"


@pytest.mark.parametrize(("kind", "table"), [("cosine", COSINE), ("linear", LINEAR)])
def test_tables_hold_the_specified_values(kind, table) -> None:
    schedule = noise_schedule(kind, 1000)
    for t, (beta, level, variance, log_variance) in table.items():
        assert digits(schedule.betas[t], 10) == digits(beta, 10)
        assert digits(schedule.alphas_bar[t], 10) == digits(level, 10)
        assert digits(schedule.posterior_variance[t], 10) == digits(variance, 10)
        assert f"{float(schedule.posterior_log_variance[t]):.8f}" == f"{log_variance:.8f}"


@pytest.mark.parametrize("kind", SUMS)
def test_sums_are_the_specified_ones(kind) -> None:
    schedule = noise_schedule(kind, 1000)
    for table, printed in zip((schedule.alphas_bar, schedule.betas), SUMS[kind], strict=True):
        n_decimals = len(printed.partition(".")[2])
        assert f"{float(table.sum()):.{n_decimals}f}" == printed


def test_one_cosine_beta_is_capped() -> None:
    betas = cosine_betas(1000)
    assert (betas == 0.999).nonzero().flatten().tolist() == [999]


@pytest.mark.parametrize("n_steps", [50, 1000])
def test_betas_are_those_of_a_restatement_with_loops(n_steps: int) -> None:
    def level(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    cosine = [min(1 - level((t + 1) / n_steps) / level(t / n_steps), 0.999) for t in range(n_steps)]
    scale = 1000 / n_steps
    linear = [
        scale * 1e-4 + (scale * 0.02 - scale * 1e-4) * t / (n_steps - 1) for t in range(n_steps)
    ]
    torch.testing.assert_close(cosine_betas(n_steps), torch.tensor(cosine, dtype=torch.float64))
    torch.testing.assert_close(linear_betas(n_steps), torch.tensor(linear, dtype=torch.float64))


def test_posterior_is_that_of_a_restatement_with_loops() -> None:
    schedule, level = noise_schedule("cosine", 30), 1.0
    for t, beta in enumerate(schedule.betas.tolist()):
        before, level = level, level * (1 - beta)
        assert float(schedule.alphas_bar_before[t]) == pytest.approx(before, rel=1e-12)
        assert float(schedule.posterior_variance[t]) == pytest.approx(
            beta * (1 - before) / (1 - level), rel=1e-12
        )
        assert float(schedule.mean_from_clean[t]) == pytest.approx(
            beta * math.sqrt(before) / (1 - level), rel=1e-12
        )
        assert float(schedule.mean_from_noisy[t]) == pytest.approx(
            (1 - before) * math.sqrt(1 - beta) / (1 - level), rel=1e-12
        )


def test_tables_are_float64_on_the_cpu_even_where_models_have_no_storage() -> None:
    with torch.device("meta"):
        schedule = noise_schedule("linear", 100).respaced([0, 50, 99])
    assert schedule.betas.dtype == torch.float64 and schedule.betas.device.type == "cpu"
    assert schedule.timesteps.device.type == "cpu"


@pytest.mark.parametrize("n", GRIDS)
def test_strided_grids_are_the_specified_ones(n: int) -> None:
    assert strided_steps(1000, [n]) == GRIDS[n]


def test_long_grids_begin_and_end_as_specified() -> None:
    by_64, by_250 = strided_steps(1000, [64]), strided_steps(1000, [250])
    assert by_64[:8] == [0, 16, 32, 48, 63, 79, 95, 111] and by_64[-5:] == [936, 951, 967, 983, 999]
    assert by_250[:10] == list(range(0, 40, 4)) and by_250[-4:] == [987, 991, 995, 999]
    assert len(by_64) == 64 and len(by_250) == 250


def test_hand_tuned_grid_is_the_specified_one() -> None:
    assert fast_27_steps() == FAST_27


def test_first_sections_are_longer_where_they_do_not_divide_the_steps() -> None:
    assert strided_steps(11, [2, 2, 2]) == [0, 3, 4, 7, 8, 10]


@pytest.mark.parametrize("counts", [[0], [11], [2, 7]])
def test_more_steps_than_a_section_has_are_refused(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="can't choose"):
        strided_steps(10, counts)


@pytest.mark.parametrize("row", RESPACED, ids=lambda row: f"{row[0]} {row[1]}, {row[2]}")
def test_respaced_tables_hold_the_specified_values(row) -> None:
    kind, n, i, step, beta, variance, from_clean, from_noisy = row
    schedule = noise_schedule(kind, 1000).respaced(strided_steps(1000, [n]))
    assert len(schedule) == n and int(schedule.timesteps[i]) == step
    assert digits(schedule.betas[i], 10) == digits(beta, 10)
    assert digits(schedule.posterior_variance[i], 10) == digits(variance, 10)
    assert f"{float(schedule.mean_from_clean[i]):.10f}" == f"{from_clean:.10f}"
    assert f"{float(schedule.mean_from_noisy[i]):.10f}" == f"{from_noisy:.10f}"


def test_kept_steps_are_as_noisy_as_before() -> None:
    schedule = noise_schedule("cosine", 1000)
    steps = strided_steps(1000, [15])
    torch.testing.assert_close(
        schedule.respaced(steps).alphas_bar, schedule.alphas_bar[steps], rtol=1e-8, atol=0
    )


@pytest.mark.parametrize("steps", [[3, 2], [0, 0], [-1, 5], [0, 10]])
def test_steps_that_do_not_ascend_within_the_schedule_are_refused(steps: list[int]) -> None:
    with pytest.raises(ValueError, match="must ascend within a schedule of 10"):
        noise_schedule("cosine", 10).respaced(steps)


def test_schedules_that_are_too_short_or_all_noise_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 steps: 1"):
        NoiseSchedule(torch.tensor([0.1]))
    with pytest.raises(ValueError, match="between 0 and 1"):
        noise_schedule("linear", 20)


def test_entries_multiply_samples_of_any_shape() -> None:
    table = torch.arange(5, dtype=torch.float64) / 3
    samples = torch.ones(2, 3, 4, 4)
    scaled = table_entries(table, torch.tensor([1, 4]), samples) * samples
    assert scaled.dtype == torch.float32
    torch.testing.assert_close(scaled[:, 0, 0, 0], torch.tensor([1 / 3, 4 / 3]))
    assert (table_entries(table, 4, samples) * samples).dtype == torch.float32
