"""The 16-bit formats against tables of all their numbers, computed one at a time."""

import math

import pytest
import torch
from torch import Tensor

from dalle_cli.training.optimization.float_formats import (
    BIAS,
    FLOAT_0_6_10,
    FLOAT_1_6_9,
    FloatFormat,
)

FORMATS = [FLOAT_1_6_9, FLOAT_0_6_10]
EVERY_CODE = torch.arange(2**16, dtype=torch.int32).to(torch.int16)


def number(code: int, n_significand: int, *, is_signed: bool) -> float:
    """Restate a code in words: significand times a power of two, as in IEEE 754."""
    sign = -1.0 if is_signed and code >= 2**15 else 1.0
    exponent, significand = divmod(code % 2**15 if is_signed else code, 2**n_significand)
    if exponent == 63:
        return math.nan if significand else sign * math.inf
    if exponent == 0:
        return sign * significand * 2.0 ** (1 - BIAS - n_significand)
    return sign * (1 + significand / 2**n_significand) * 2.0 ** (exponent - BIAS)


def numbers(of: FloatFormat) -> Tensor:
    """Return the numbers fp64 of all codes, by code."""
    values = [number(code, of.n_significand, is_signed=of.is_signed) for code in range(2**16)]
    return torch.tensor(values, dtype=torch.float64)


def nearest(values: Tensor, of: FloatFormat) -> Tensor:
    """Find the nearest finite number of each value fp64 in the table, in case of a tie the even."""
    table = numbers(of)
    codes = torch.arange(2**16)[table.isfinite() & ~(table.eq(0) & table.signbit())]
    order = table[codes].argsort()
    codes, table = codes[order], table[codes][order]

    above = torch.searchsorted(table, values).clamp(1, len(table) - 1)
    below = above - 1
    to_below, to_above = values - table[below], table[above] - values
    is_even = codes[below] % 2 == 0
    takes_below = (to_below < to_above) | ((to_below == to_above) & is_even)
    return torch.where(takes_below, table[below], table[above])


@pytest.mark.parametrize("of", FORMATS)
def test_every_code_means_its_number(of: FloatFormat) -> None:
    found = of.decode(EVERY_CODE).double()
    torch.testing.assert_close(found, numbers(of), rtol=0, atol=0, equal_nan=True)
    is_number = ~found.isnan()  # a NaN's sign is lost in the table
    assert found.signbit()[is_number].equal(numbers(of).signbit()[is_number])


@pytest.mark.parametrize("of", FORMATS)
def test_every_code_survives_the_way_there_and_back(of: FloatFormat) -> None:
    assert of.encode(of.decode(EVERY_CODE)).equal(EVERY_CODE)


@pytest.mark.parametrize("of", FORMATS)
def test_values_between_all_neighbours_go_to_the_nearest_number(of: FloatFormat) -> None:
    """The middle, which fp32 holds, and the fp32 numbers next to it on both sides."""
    table = numbers(of)
    finite = table[table.isfinite()].unique()
    middles = ((finite[1:] + finite[:-1]) / 2).float()
    assert middles.double().equal((finite[1:] + finite[:-1]) / 2)
    infinity = torch.tensor(math.inf)
    beside = (middles.nextafter(infinity), middles.nextafter(-infinity))
    for values in (middles, *beside):
        expected = nearest(values.double(), of)
        assert of.decode(of.encode(values)).double().equal(expected)


@pytest.mark.parametrize("of", FORMATS)
def test_any_fp32_value_goes_to_the_nearest_number(of: FloatFormat) -> None:
    """Random bits, so that every exponent comes up, those beyond the format's range as well."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (200_000,), generator=generator)
    values = bits.to(torch.int32).view(torch.float32)
    values = values[values.isfinite()]
    assert of.decode(of.encode(values)).double().equal(nearest(values.double(), of))


def test_the_largest_running_mean_is_slightly_below_16_as_published() -> None:
    assert FLOAT_1_6_9.largest == 15.984375
    assert FLOAT_0_6_10.largest == 15.9921875
    for of in FORMATS:
        assert float(numbers(of)[of.infinity - 1]) == of.largest


@pytest.mark.parametrize("of", FORMATS)
def test_infinity_and_nan_stay_what_they_are(of: FloatFormat) -> None:
    nan_of_low_bits = torch.tensor([0x7F800001], dtype=torch.int32).view(torch.float32)
    values = torch.cat([torch.tensor([math.inf, math.nan, -math.nan]), nan_of_low_bits])
    found = of.decode(of.encode(values))
    assert found[0] == math.inf and found[1:].isnan().all()
    assert FLOAT_1_6_9.decode(FLOAT_1_6_9.encode(torch.tensor([-math.inf]))) == -math.inf


@pytest.mark.parametrize("of", FORMATS)
def test_codes_are_finite_where_their_numbers_are(of: FloatFormat) -> None:
    is_finite = of.decode(EVERY_CODE).isfinite()
    assert of.are_finite(EVERY_CODE[is_finite])
    for code in EVERY_CODE[~is_finite][::7]:
        assert not of.are_finite(torch.stack([EVERY_CODE[0], code]))


def test_without_a_sign_negative_values_become_zero() -> None:
    values = torch.tensor([-1.0, -0.0, -1e-30, -math.inf])
    assert not FLOAT_0_6_10.encode(values).any()
