"""The average of weights, kept off the GPU, against the one beside them."""

from collections.abc import Callable

import pytest
import torch
from test_models_on_gpu import relative_error
from torch import nn

from dalle_cli.config import EmaTable
from dalle_cli.training.optimization.ema import Ema

pytestmark = pytest.mark.gpu


def test_average_off_the_gpu_is_the_one_on_it(device: torch.device, measured: Callable) -> None:
    on, off = (nn.Linear(3, 2, device=device) for _ in range(2))
    off.load_state_dict(on.state_dict())
    table = EmaTable(decay=0.9, every=1)
    beside = Ema(dict(on.named_parameters()), table)
    elsewhere = Ema(dict(off.named_parameters()), table, torch.device("cpu"))

    generator = torch.Generator().manual_seed(1)
    for _ in range(9):
        for ours, theirs in zip(on.parameters(), off.parameters(), strict=True):
            step = torch.randn(ours.shape, generator=generator).to(device)
            ours.data += step
            theirs.data += step
        for ema in (beside, elsewhere):
            ema.update()

    assert all(weight.device.type == "cpu" for weight in elsewhere.weights.values())
    averages = [list(ema.weights.values()) for ema in (elsewhere, beside)]
    measured("average", relative_error(*averages), most=1e-6)
    with elsewhere.swapped_in():
        swapped = [parameter.detach().clone() for parameter in off.parameters()]
    measured("in use", relative_error(swapped, averages[1]), most=1e-6)
