"""How networks are told the step: sinusoids, cosines first, then two linear maps.

Axes used below:

    B batch    D width of the result
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LONGEST_PERIOD = 10_000


def sinusoids(timesteps: Tensor, width: int) -> Tensor:
    """Encode steps int64 [B] as cosines and sines of falling frequency: float64 [B, width].

    Raises ValueError for an odd width.
    """
    if width % 2:
        raise ValueError(f"sinusoids come in pairs: the width must be even: {width}")
    half = width // 2

    exponents = torch.arange(half, dtype=torch.float64, device=timesteps.device) / half
    frequencies = torch.exp(-math.log(LONGEST_PERIOD) * exponents)
    angles = timesteps[:, None] * frequencies  # [B, width / 2]
    return torch.cat([angles.cos(), angles.sin()], dim=1)  # [B, width]


class TimeEmbedding(nn.Module):
    """Two linear maps of the sinusoids, with SiLU in between."""

    def __init__(self, width: int, d_out: int) -> None:
        super().__init__()
        self.width = width
        self.expand = nn.Linear(width, d_out)
        self.output = nn.Linear(d_out, d_out)

    def forward(self, timesteps: Tensor) -> Tensor:
        """Embed steps int64 [B] as [B, D]."""
        encoded = sinusoids(timesteps, self.width).to(self.expand.weight.dtype)
        return self.output(F.silu(self.expand(encoded)))
