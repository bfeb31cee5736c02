"""Figures against their definitions."""

import math
from collections import Counter

import pytest
import torch

from dalle_cli.metrics import code_counts, perplexity, psnr


@pytest.mark.parametrize(("squared_error", "decibels"), [(1.0, 0.0), (0.01, 20.0), (0.25, 6.0206)])
def test_psnr_counts_decibels_below_a_peak_of_one(squared_error: float, decibels: float) -> None:
    assert psnr(squared_error) == pytest.approx(decibels, abs=1e-4)


def test_psnr_of_a_perfect_picture_is_finite() -> None:
    assert math.isfinite(psnr(0.0)) and psnr(0.0) >= psnr(1e-9)


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
