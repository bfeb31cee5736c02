"""Every model on the GPU against the CPU's fp32: outputs, gradients, and losses of some updates."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from trained_models import KINDS, build

from dalle_cli.runtime.precision import Precision

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
# relative errors; TF32, which has 10 bits, would miss the first
OF_OUTPUTS = {"fp32": 1e-4, "bf16": 0.03, "fp16": 0.005}
OF_GRADIENTS = {"fp32": 2e-4, "bf16": 0.1, "fp16": 0.02}
OF_LOSSES = {"fp32": 1e-4, "bf16": 0.06, "fp16": 0.015}
N_UPDATES = 5


def relative_error(found: list[Tensor], expected: list[Tensor]) -> float:
    """Return the norm of all differences as a share of the norm of what is expected."""
    pairs = [
        (f.detach().double().cpu(), e.detach().double().cpu())
        for f, e in zip(found, expected, strict=True)
    ]
    error, whole = (
        torch.stack([part.square().sum() for part in parts]).sum().sqrt()
        for parts in ([f - e for f, e in pairs], [e for _, e in pairs])
    )
    return float(error / whole)


class Course(NamedTuple):
    """A few updates of a model by one batch: outputs and gradients of the first, losses of all."""

    outputs: list[Tensor]
    gradients: list[Tensor]
    losses: list[float]


def course(kind: str, precision: Precision, device: torch.device) -> Course:
    trained, outputs, gradients, losses = build(kind, precision, device), [], [], []
    for i in range(N_UPDATES):
        found, loss = trained.compute()
        trained.engine.backward(loss)
        if i == 0:
            outputs = [output.detach() for output in found]
            gradients = [gradient.clone() for gradient in trained.gradients()]
        trained.engine.observe(loss.detach())
        assert trained.engine.update()
        losses.append(float(loss.detach()))
    return Course(outputs, gradients, losses)


@cache
def course_on_cpu(kind: str) -> Course:
    return course(kind, "fp32", CPU)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_gradients_and_updates_are_the_cpus(
    kind: str, precision: Precision, device: torch.device, measured: Callable
) -> None:
    if (kind, precision) == ("clip", "fp16"):
        pytest.skip("a CLIP does not train in fp16")
    found, expected = course(kind, precision, device), course_on_cpu(kind)
    assert all(output.device.type == device.type for output in found.outputs)
    assert expected.losses[-1] < expected.losses[0]

    pairs = zip(found.outputs, expected.outputs, strict=True)
    of_outputs = max(relative_error([ours], [theirs]) for ours, theirs in pairs)
    measured("outputs", of_outputs, most=OF_OUTPUTS[precision])
    if precision != "fp32":
        assert of_outputs > 1e-6, "it was computed in fp32"

    of_gradients = relative_error(found.gradients, expected.gradients)
    measured("gradients", of_gradients, most=OF_GRADIENTS[precision])
    pairs = zip(found.losses, expected.losses, strict=True)
    of_losses = max(abs(ours - theirs) for ours, theirs in pairs) / abs(expected.losses[0])
    measured("losses", of_losses, most=OF_LOSSES[precision])
