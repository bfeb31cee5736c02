"""Mixed precision: the arithmetic that a run uses, applied around a model from outside.

Under bf16 the modules that the paper runs in 16 bits multiply in bf16 and return fp32; parameters,
embeddings, the transformer's residual stream, logits and losses stay fp32. Models list these
modules and know nothing else of precision; the heads that compute their own gradients are built for
it. fp16 alone is for inference: training in it needs `gradient_scaling` or `loss_scaling`.
"""

import time
from typing import Any, Literal, Protocol, cast, get_args

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
    """A model that lists the modules which the paper runs in 16 bits."""

    def half_precision_modules(self) -> list[nn.Module]: ...


def choose_precision(choice: str, device: torch.device) -> Precision:
    """Return the precision for a `--precision` option.

    `auto` is bf16 if the device multiplies clearly faster in it than in fp32, else fp32. Raises
    UsageError for an unknown name.
    """
    if choice not in ("auto", *get_args(Precision)):
        raise UsageError(f"no such precision: {choice}", "--precision is auto, fp32, bf16 or fp16")

    if choice != "auto":
        return cast(Precision, choice)
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    fp32, bf16 = _best_seconds_by_dtype((torch.float32, torch.bfloat16))
    return "bf16" if fp32 > CLEARLY_FASTER * bf16 else "fp32"


def precision_words(precision: Precision, device: torch.device) -> str:
    """Return a precision in words, which tell of a GPU that its fp32 is fp32."""
    return f"{precision} (fp32 without TF32)" if device.type == "cuda" else precision


def apply_precision(model: MixedPrecisionModel, precision: Precision, device: torch.device) -> None:
    """Run the model's 16-bit modules in a precision, in place; deep copies of the model keep it."""
    if precision == "fp32":
        return
    for module in model.half_precision_modules():
        extend_class(module, _Autocast).autocast_arguments = device.type, DTYPES[precision]


class _Autocast(nn.Module):
    """Mixin: runs the module's forward under autocast and returns fp32."""

    autocast_arguments: tuple[str, torch.dtype]  # the device's type and the 16-bit dtype

    def forward(self, *args: Any) -> Tensor:
        with torch.autocast(*self.autocast_arguments):
            return super().forward(*args).float()


def _best_seconds_by_dtype(dtypes: tuple[torch.dtype, ...]) -> list[float]:
    """Measure the fastest of several matrix multiplications in each dtype, in seconds.

    The dtypes take turns on a single thread, since the machine may be busy: threads that wait for
    one another would hide the ratio.
    """
    matrices = [torch.ones(RACE_SIZE, RACE_SIZE, dtype=dtype) for dtype in dtypes]
    times: list[list[float]] = [[] for _ in dtypes]

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(RACE_ROUNDS):
        for times_of_dtype, matrix in zip(times, matrices, strict=True):
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            times_of_dtype.append(time.perf_counter() - start)
    torch.set_num_threads(n_threads)

    return [min(times_of_dtype) for times_of_dtype in times]
