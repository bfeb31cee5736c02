"""Every model on the GPU against the CPU's fp32: outputs, loss, gradients, and a few updates."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from trained_models import KINDS, Trained, build

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


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_loss_and_gradients_are_the_cpus(
    kind: str, precision: Precision, device: torch.device, measured: Callable
) -> None:
    found, expected = build(kind, precision, device), build(kind, "fp32", CPU)
    (outputs, loss), (plain, plain_loss) = found.compute(), expected.compute()
    assert all(output.device.type == device.type for output in outputs)
    worst = max(relative_error([f], [e]) for f, e in zip(outputs, plain, strict=True))
    measured("outputs", worst, most=OF_OUTPUTS[precision])
    measured("loss", relative_error([loss], [plain_loss]), most=OF_LOSSES[precision])
    if precision != "fp32":
        assert worst > 1e-6, "it was computed in fp32"
    if (kind, precision) == ("clip", "fp16"):
        return  # in which it does not train

    found.engine.backward(loss)
    expected.engine.backward(plain_loss)
    error = relative_error(found.gradients(), expected.gradients())
    measured("gradients", error, most=OF_GRADIENTS[precision])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_training_goes_as_on_the_cpu(
    kind: str, precision: Precision, device: torch.device, measured: Callable
) -> None:
    if (kind, precision) == ("clip", "fp16"):
        pytest.skip("a CLIP does not train in fp16")
    found, expected = (
        losses(build(kind, *place)) for place in ((precision, device), ("fp32", CPU))
    )
    assert expected[-1] < expected[0]
    worst = max(abs(f - e) for f, e in zip(found, expected, strict=True)) / abs(expected[0])
    measured("losses", worst, most=OF_LOSSES[precision])


def losses(trained: Trained) -> list[float]:
    """Update a model a few times by one batch; return the losses before each update."""
    found = []
    for _ in range(N_UPDATES):
        _, loss = trained.compute()
        trained.engine.backward(loss)
        trained.engine.observe(loss.detach())
        assert trained.engine.update()
        found.append(float(loss.detach()))
    return found
