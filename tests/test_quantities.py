"""Numbers as people say them."""

import pytest

from dalle_cli.console import count_text, duration_text, size_text, sparkline


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"),
        (40, "40 s"),
        (99.6, "2 minutes"),
        (720, "12 minutes"),
        (3599, "1 h"),
        (6000, "1 h 40 min"),
        (86399, "1 day"),
        (100_800, "1 day 4 h"),
        (1_210_000, "14 days"),
    ],
)
def test_duration_is_told_as_people_tell_it(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (319_488, "312 KiB"),
        (999.7 * 2**10, "0.98 MiB"),
        (1000 * 2**20, "0.98 GiB"),
        (1.31 * 2**30, "1.31 GiB"),
        (5000 * 2**40, "5,000 TiB"),
    ],
)
def test_size_has_three_digits(n_bytes: float, text: str) -> None:
    assert size_text(n_bytes) == text


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (7, "7"),
        (70_593, "70,593"),
        (999_999, "999,999"),
        (4_860_000, "4.86 million"),
        (999_400_000, "999 million"),
        (999_999_999, "1.00 billion"),
        (1_310_474_240, "1.31 billion"),
    ],
)
def test_large_counts_have_a_word(n: int, text: str) -> None:
    assert count_text(n) == text


@pytest.mark.parametrize(
    ("values", "n_columns", "chart"),
    [
        ([5.0], 8, "▁"),
        ([2.0, 2.0, 2.0], 8, "▁▁▁"),
        ([0, 1, 2, 3, 4, 5, 6, 7], 8, "▁▂▃▄▅▆▇█"),
        ([7, 7, 7, 7, 0, 0, 0, 0, 3.5, 3.5], 5, "██▁▁▅"),
    ],
)
def test_chart_shows_means_between_the_lowest_and_the_highest(
    values: list[float], n_columns: int, chart: str
) -> None:
    assert sparkline(values, n_columns) == chart
