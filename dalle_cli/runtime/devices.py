"""runtime.devices: to be described."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from dalle_cli.errors import DalleError, UsageError
from dalle_cli.runtime.allocator import keep_freed_memory
from dalle_cli.runtime.precision import Precision, choose_precision


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Turn an allocation that the device refuses into a message with a way out."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            hint = (
                "try `--set runtime.micro_batch_size=N` in training (a transformer has `runtime.activation_checkpointing=true` and "
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
        raise DalleError(
            "no such device on this machine: cuda", "`dalle doctor` says what there is"
        )
    return torch.device(name)


def open_device(device: str, precision: str) -> tuple[torch.device, Precision]:
    """Choose where and how to compute, and see to it that fp32 is fp32 there.

    Not quite on a CPU: what is too small for fp32's full digits (below 1.2e-38) counts as 0. A processor takes many
    times as long for such numbers, and a softmax of low temperature is full of them.
    """
    chosen = choose_device(device)
    if chosen.type == "cuda":
        torch.backends.cudnn.allow_tf32 = (
            False  # by default cuDNN's convolutions keep 10 bits of fp32's 23
        )
    else:
        keep_freed_memory()
        torch.set_flush_denormal(
            True
        )  # before torch computes anything: threads have it from the one that starts them
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


MODEST = 2**31  # bytes, where the system does not say what is free


def free_memory(device: torch.device) -> int:
    """Ask how many bytes of memory can still be had: the GPU's, what torch holds unused included, or the computer's."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    try:
        facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        return MODEST
