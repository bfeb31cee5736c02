"""The tasks of DALL-E 2 in 16 bits: losses and gradients stay close to those of fp32."""

import pytest
import torch
from torch import Tensor
from unclip_tasks import CPU, TASKS, batch_for, whole

from dalle_cli.runtime.precision import Precision, apply_precision

LOSS_SCALE = 2.0**10  # without it, fp16 gradients would vanish
ROUNDING: dict[Precision, float] = {"bf16": 2**-9, "fp16": 2**-12}  # relative, of one operation


def loss_and_gradient(kind: str, precision: Precision, scale: float) -> tuple[float, Tensor]:
    """Return the loss of a batch, and all gradients as one vector, without the scale."""
    task = TASKS[kind]()
    apply_precision(task.module, precision, CPU)
    loss, _ = task.loss(whole(batch_for(kind)), step=0)
    (loss * scale).backward()
    gradients = [parameter.grad for parameter in task.module.parameters()]
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    return loss.item(), torch.cat([gradient.flatten() for gradient in gradients]) / scale


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize(("precision", "scale"), [("bf16", 1.0), ("fp16", LOSS_SCALE)])
def test_16_bits_lose_what_fp32_does(kind: str, precision: Precision, scale: float) -> None:
    exact, exact_gradient = loss_and_gradient(kind, "fp32", 1.0)
    found, gradient = loss_and_gradient(kind, precision, scale)
    assert found != exact
    assert found == pytest.approx(exact, rel=4 * ROUNDING[precision])
    error = (gradient - exact_gradient).norm() / exact_gradient.norm()
    assert float(error) < 16 * ROUNDING[precision]
