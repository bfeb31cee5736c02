"""Which arithmetic a run uses, and how it is put around a model from outside.

Under bf16 the parts that the paper runs in 16 bits multiply in bf16 and hand back fp32; parameters, embeddings, the
transformer's residual stream, logits and losses stay fp32. Models say which parts, and know nothing of how. fp16 alone
is for inference: to train in it, `gradient_scaling` or `loss_scaling` is needed.
"""

import time
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from dalle_cli.errors import UsageError
from dalle_cli.runtime.mixins import extend_class

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
CLEARLY_FASTER = 1.3
RACE_SIZE = 512  # a multiplication of this order takes milliseconds on a laptop
RACE_ROUNDS = 15


class MixedPrecisionModel(Protocol):
    """A model that can say which of its parts the paper runs in 16 bits."""

    def half_precision_modules(self) -> list[nn.Module]: ...


def choose_precision(choice: str, device: torch.device) -> Precision:
    """Turn `auto` into bf16 where the device multiplies it clearly faster than fp32, else into fp32.

    Raises UsageError for a precision there is not.
    """
    if choice not in ("auto", *get_args(Precision)):
        raise UsageError(f"no such precision: {choice}", "--precision is auto, fp32, bf16 or fp16")
    if choice != "auto":
        return choice
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    fp32, bf16 = _race((torch.float32, torch.bfloat16))
    return "bf16" if fp32 > CLEARLY_FASTER * bf16 else "fp32"


def apply_precision(model: MixedPrecisionModel, precision: Precision, device: torch.device) -> None:
    """Let the model's 16-bit parts compute in a precision, in place; a deep copy of the model does so too."""
    if precision == "fp32":
        return
    for part in model.half_precision_modules():
        extend_class(part, _SixteenBit)
        part.arithmetic = device.type, DTYPES[precision]


class _SixteenBit(nn.Module):
    """What comes before a part's own class once it computes in 16 bits; it hands back fp32."""

    arithmetic: tuple[str, torch.dtype]  # of which kind of device, and in what

    def forward(self, *args: Any) -> Tensor:
        with torch.autocast(*self.arithmetic):
            return super().forward(*args).float()


def _race(dtypes: tuple[torch.dtype, ...]) -> list[float]:
    """Seconds that the best of several matrix multiplications takes in each dtype.

    In turn and on one thread, since the machine may be busy: threads waiting for one another would hide the ratio.
    """
    operands = [torch.ones(RACE_SIZE, RACE_SIZE, dtype=dtype) for dtype in dtypes]
    times: list[list[float]] = [[] for _ in dtypes]
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(RACE_ROUNDS):
        for own, matrix in zip(times, operands, strict=True):
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            own.append(time.perf_counter() - start)
    torch.set_num_threads(n_threads)
    return [min(own) for own in times]
