"""Which arithmetic a run uses, and how it is put around a model from outside.

Under bf16 the parts that the paper runs in 16 bits multiply in bf16 and hand back fp32; parameters, embeddings, the
transformer's residual stream, logits and losses stay fp32. Models say which parts, and know nothing of how. fp16 alone
is for inference: to train in it, `gradient_scaling` or `loss_scaling` is needed.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from dalle_cli.errors import DalleError, UsageError
from dalle_cli.training.host_memory import keep_freed_memory

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
CLEARLY_FASTER = 1.3
RACE_SIZE = 512  # a multiplication of this order takes milliseconds on a laptop
RACE_ROUNDS = 15


class MixedPrecisionModel(Protocol):
    """A model that can say which of its parts the paper runs in 16 bits."""

    def sixteen_bit_parts(self) -> list[nn.Module]: ...


@contextmanager
def told_when_out_of_memory() -> Iterator[None]:
    """Turn an allocation that the device refuses into a message with a way out."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            hint = (
                "try `--set runtime.micro_batch_size=N` in training (a transformer has `runtime.recompute=true` and "
                "`runtime.zero_stage`, too; a CLIP a smaller `training.global_batch_size`), `--batch-size N` in "
                "drawing and ranking"
            )
            raise DalleError(f"out of memory: {str(error).splitlines()[0]}", hint) from error
        raise


def choose_device(name: str) -> torch.device:
    """Turn `auto` into the best device there is; raises DalleError for one that is not there."""
    has_gpu = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if has_gpu else "cpu"
    if name not in ("cpu", "cuda"):
        raise UsageError(f"no such device: {name}", "--device is auto, cpu or cuda")
    if name == "cuda" and not has_gpu:
        raise DalleError("no such device on this machine: cuda", "`dalle doctor` says what there is")
    return torch.device(name)


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


def open_device(device: str, precision: str) -> tuple[torch.device, Precision]:
    """Choose where and how to compute, and see to it that fp32 is fp32 there.

    Not quite on a CPU: what is too small for fp32's full digits (below 1.2e-38) counts as 0. A processor takes many
    times as long for such numbers, and a softmax of low temperature is full of them.
    """
    chosen = choose_device(device)
    if chosen.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # by default cuDNN's convolutions keep 10 bits of fp32's 23
    else:
        keep_freed_memory()
        torch.set_flush_denormal(True)  # before torch computes anything: threads have it from the one that starts them
        use_fast_fp32_matmul()
    return chosen, choose_precision(precision, chosen)


def use_fast_fp32_matmul() -> bool:
    """Take torch's other fp32 matrix route on the CPU where it is still true fp32; say whether it was taken.

    On some CPUs it is twice as fast, on others it computes in bf16: its error is checked once.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 256, 256, generator=generator)
    exact = a.double() @ b.double()
    torch.set_float32_matmul_precision("medium")
    error = float((a @ b - exact).norm() / exact.norm())
    is_exact = error < 1e-6
    if not is_exact:
        torch.set_float32_matmul_precision("highest")
    return is_exact


def apply_precision(model: MixedPrecisionModel, precision: Precision, device: torch.device) -> None:
    """Let the model's 16-bit parts compute in a precision, in place; a deep copy of the model does so too."""
    if precision == "fp32":
        return
    for part in model.sixteen_bit_parts():
        plain = type(part)
        part.__class__ = type(f"SixteenBit{plain.__name__}", (_SixteenBit, plain), {})
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
