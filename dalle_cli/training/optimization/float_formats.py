"""Numbers in 16 bits: the formats 1-6-9 and 0-6-10 (sign, exponent, significand).

Ramesh et al. 2021, appendix B.2, for Adam's moments and compressed gradients. These span more
powers of two than fp16 has, and are small numbers: so the exponent has a bit more, and its bias is
59, which puts the largest running mean slightly below 16, as published. Codes are int16, the tensor
type of 16 bits that every backend knows. Knows nothing of optimizers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

BIAS = 59
FP32_BIAS, FP32_SIGNIFICAND = 127, 23
FP32_INFINITY = 0x7F800000  # anything above it is NaN
RESERVED = 63  # the exponent of infinity and NaN, as in IEEE 754


@dataclass(frozen=True)
class FloatFormat:
    """A floating-point format of 16 bits with a 6-bit exponent, subnormals, infinity and NaN.

    n_significand  its bits behind the point; a format of 9 has a sign, one of 10 has none
    """

    n_significand: int

    @property
    def is_signed(self) -> bool:
        """Whether the highest bit is a sign."""
        return self.n_significand == 9

    @property
    def infinity(self) -> int:
        """The code of infinity: codes below it are finite, those above it NaN."""
        return RESERVED << self.n_significand

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return float(2.0 ** (RESERVED - BIAS) * (1 - 2.0 ** -(self.n_significand + 1)))

    @property
    def _shift(self) -> int:
        return FP32_SIGNIFICAND - self.n_significand

    @property
    def _smallest_normal(self) -> float:
        return 2.0 ** (1 - BIAS)

    @property
    def _quantum(self) -> float:
        """The distance between subnormal numbers."""
        return self._smallest_normal * 2.0**-self.n_significand

    def are_finite(self, codes: Tensor) -> Tensor:
        """Return, as a tensor of one truth value, whether no code is one of infinity or NaN."""
        magnitudes = codes & 0x7FFF if self.is_signed else codes.to(torch.int32) & 0xFFFF
        return (magnitudes < self.infinity).all()

    def encode(self, values: Tensor) -> Tensor:
        """Return the codes int16 of the numbers nearest to fp32 values; ties go to even codes.

        Finite values beyond the largest number become the largest one; without a sign, negative
        values become 0. Infinity and NaN stay what they are.
        """
        magnitudes = (values if self.is_signed else values.clamp(min=0)).abs()
        bits = magnitudes.view(torch.int32)

        # fp32's significand, rounded half to even: a carry goes to the exponent, as it should
        is_odd = (bits >> self._shift) & 1
        rounded = (bits + ((1 << (self._shift - 1)) - 1) + is_odd) >> self._shift
        codes = rounded - ((FP32_BIAS - BIAS) << self.n_significand)
        codes.clamp_(max=self.infinity - 1)

        # the code of a subnormal number is the number, in units of the quantum
        smallest = self._smallest_normal
        quanta = (magnitudes.clamp(max=smallest) / self._quantum).round_().to(torch.int32)
        codes = torch.where(magnitudes < smallest, quanta, codes)

        payload = ((bits >> self._shift) & ((1 << self.n_significand) - 1)).clamp_(min=1)
        special = self.infinity + torch.where(bits > FP32_INFINITY, payload, 0)
        codes = torch.where(bits >= FP32_INFINITY, special, codes)
        if self.is_signed:
            codes |= (values.view(torch.int32) >> 31) << 15
        return codes.to(torch.int16)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the numbers fp32 of codes int16, exactly."""
        unsigned = codes.to(torch.int32) & 0xFFFF
        magnitudes = unsigned & 0x7FFF if self.is_signed else unsigned

        bits = (magnitudes << self._shift) + ((FP32_BIAS - BIAS) << FP32_SIGNIFICAND)
        subnormal = (magnitudes.float() * self._quantum).view(torch.int32)
        bits = torch.where(magnitudes < 1 << self.n_significand, subnormal, bits)
        bits |= torch.where(magnitudes >= self.infinity, FP32_INFINITY, 0)
        if self.is_signed:
            bits |= (unsigned >> 15) << 31
        return bits.view(torch.float32)


FLOAT_1_6_9 = FloatFormat(n_significand=9)
FLOAT_0_6_10 = FloatFormat(n_significand=10)
