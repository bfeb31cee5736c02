"""Figures against their definitions."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dalle_cli.metrics import (
    blank_cells,
    code_counts,
    perplexity,
    psnr,
    recall_at,
    retrieval_ranks,
    ssim,
)


@pytest.mark.parametrize(("squared_error", "decibels"), [(1.0, 0.0), (0.01, 20.0), (0.25, 6.0206)])
def test_psnr_counts_decibels_below_a_peak_of_one(squared_error: float, decibels: float) -> None:
    assert psnr(squared_error) == pytest.approx(decibels, abs=1e-4)


def test_psnr_of_a_perfect_picture_is_finite() -> None:
    assert math.isfinite(psnr(0.0)) and psnr(0.0) >= psnr(1e-9)


def ssim_by_hand(a: torch.Tensor, b: torch.Tensor) -> float:
    """Slide an 11 by 11 Gaussian of deviation 1.5 over each channel (Wang et al. 2004)."""
    weights = [
        [math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)]
        for i in range(11)
    ]
    total = sum(map(sum, weights))
    values = []
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        for top in range(len(x) - 10):
            for left in range(len(x[0]) - 10):
                places = [(i, j, weights[i][j] / total) for i in range(11) for j in range(11)]
                mean_x = sum(w * x[top + i][left + j] for i, j, w in places)
                mean_y = sum(w * y[top + i][left + j] for i, j, w in places)
                var_x = sum(w * (x[top + i][left + j] - mean_x) ** 2 for i, j, w in places)
                var_y = sum(w * (y[top + i][left + j] - mean_y) ** 2 for i, j, w in places)
                both = sum(
                    w * (x[top + i][left + j] - mean_x) * (y[top + i][left + j] - mean_y)
                    for i, j, w in places
                )
                c1, c2 = (0.01 * 1.0) ** 2, (0.03 * 1.0) ** 2
                values.append(
                    (2 * mean_x * mean_y + c1)
                    * (2 * both + c2)
                    / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
                )
    return sum(values) / len(values)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.3])
def test_ssim_matches_a_literal_restatement(noise: float) -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(3, 14, 17, generator=generator)
    b = (a + noise * torch.randn(a.shape, generator=generator)).clamp(0, 1)
    assert ssim(a, b) == pytest.approx(ssim_by_hand(a, b), abs=1e-9)


def test_ssim_of_a_picture_with_itself_is_one_also_where_it_is_flat_or_small() -> None:
    for picture in (torch.rand(3, 20, 20), torch.full((3, 20, 20), 0.9), torch.rand(3, 4, 4)):
        assert ssim(picture, picture) == pytest.approx(1, abs=1e-9)


def test_ssim_of_two_flat_pictures_compares_their_brightness() -> None:
    expected = (2 * 0.5 * 0.7 + 1e-4) / (0.5**2 + 0.7**2 + 1e-4)
    assert ssim(torch.full((3, 12, 12), 0.5), torch.full((3, 12, 12), 0.7)) == pytest.approx(
        expected, abs=1e-6
    )


def test_blank_cells_are_those_of_one_colour() -> None:
    images = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    images[0, :, 4:8, 8:12] = torch.tensor([0.2, 0.5, 1.0])[:, None, None]
    images[1] = 1.0
    images[1, 2, 11, 0] = 0.99
    blank = blank_cells(images, grid_size=3)
    assert blank[0].nonzero().flatten().tolist() == [5]
    assert (~blank[1]).nonzero().flatten().tolist() == [6]


def test_code_counts_match_a_counter_and_name_unused_entries() -> None:
    tokens = torch.randint(9, (3, 4, 5), generator=torch.Generator().manual_seed(0))
    counter = Counter(tokens.flatten().tolist())
    assert code_counts(tokens, 12).tolist() == [counter[i] for i in range(12)]


@pytest.mark.parametrize("used", [1, 2, 7])
def test_perplexity_of_entries_used_equally_often_is_their_number(used: int) -> None:
    counts = torch.zeros(10, dtype=torch.int64)
    counts[:used] = 5
    assert perplexity(counts) == pytest.approx(used)


def test_perplexity_is_the_exponential_of_the_entropy() -> None:
    counts = [3, 0, 1, 8, 0, 20]
    entropy = -sum(n / 32 * math.log(n / 32) for n in counts if n)
    assert perplexity(torch.tensor(counts)) == pytest.approx(math.exp(entropy))


Retrieval = tuple[list[list[int]], list[list[bool]]]


@st.composite
def retrievals(draw: st.DrawFn) -> Retrieval:
    """Scores with many ties, and in each row at least one match."""
    n_rows, n_columns = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    scores = [
        draw(st.lists(st.integers(-2, 2), min_size=n_columns, max_size=n_columns))
        for _ in range(n_rows)
    ]
    matches = [
        draw(st.lists(st.booleans(), min_size=n_columns, max_size=n_columns)) for _ in range(n_rows)
    ]
    for row in matches:
        row[draw(st.integers(0, n_columns - 1))] = True
    return scores, matches


@settings(deadline=None)
@given(retrievals())
def test_ranks_match_brute_force(retrieval: Retrieval) -> None:
    scores, matches = retrieval
    expected = []
    for row, is_match in zip(scores, matches, strict=True):
        best = max(score for score, match in zip(row, is_match, strict=True) if match)
        ahead = [
            score for score, match in zip(row, is_match, strict=True) if not match and score >= best
        ]
        expected.append(len(ahead))
    assert retrieval_ranks(torch.tensor(scores).float(), torch.tensor(matches)).tolist() == expected


def test_model_that_finds_everything_alike_recalls_nothing() -> None:
    ranks = retrieval_ranks(torch.zeros(8, 8), torch.eye(8, dtype=torch.bool))
    assert [recall_at(k, ranks) for k in (1, 5, 7, 8)] == [0, 0, 0, 1]


def test_the_same_caption_twice_is_a_match_twice() -> None:
    captions = ["a ring", "a star", "a ring"]
    is_match = torch.tensor([[a == b for b in captions] for a in captions])
    scores = torch.tensor(
        [[0.1, 0.2, 0.9], [0.5, 0.6, 0.4], [0.8, 0.7, 0.1]]
    )  # each ring finds the other's caption
    assert retrieval_ranks(scores, is_match).tolist() == [0, 0, 0]
    assert retrieval_ranks(scores, torch.eye(3, dtype=torch.bool)).tolist() == [2, 0, 2]


@pytest.mark.parametrize(("k", "share"), [(1, 0.25), (2, 0.5), (5, 0.75), (6, 1.0)])
def test_recall_is_the_share_of_ranks_among_the_first(k: int, share: float) -> None:
    assert recall_at(k, torch.tensor([0, 1, 2, 5])) == share
