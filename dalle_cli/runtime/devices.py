"""The device that computes: choice and set-up, copies to and from it, its memory and its lack.

Knows nothing of models: which of their modules run in 16 bits is `runtime.precision`'s business.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from dalle_cli.errors import DalleError, UsageError
from dalle_cli.runtime.allocator import grow_segments, keep_freed_memory
from dalle_cli.runtime.precision import Precision, choose_precision
from dalle_cli.runtime.threads import ThreadsByLoad

ASSUMED_FREE = 2**31  # bytes, if the system does not report its free memory
FP32_ERROR = 1e-6  # relative error of a matrix product, above which it was not computed in fp32
# what libraries say that allocate for themselves, and whose errors are not torch's
OUT_OF_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
INSTALLING_CUDA = "https://pytorch.org/get-started/locally"
# what Triton says of a kernel that wants more shared memory than a multiprocessor has
OUT_OF_SHARED_MEMORY = "out of resource: shared memory"
SHARED_MEMORY_HINT = "try `--set runtime.attention=dense` in training, which compiles nothing"
OUT_OF_MEMORY_HINT = (
    "try `--set runtime.micro_batch_size=N` in training (for a transformer also "
    "`runtime.activation_checkpointing=true` and `runtime.zero_stage`; for a CLIP a smaller "
    "`training.global_batch_size`), or `--batch-size N` in generating and ranking"
)


def choose_device(name: str) -> torch.device:
    """Return the device for a `--device` option; `auto` is a GPU if there is one, else the CPU.

    Raises UsageError for an unknown name and DalleError if this machine has no such device.
    """
    has_gpu = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if has_gpu else "cpu"

    if name == "mps":
        lacking = "generating computes in 64-bit floats, which Apple's GPUs do not have"
        raise UsageError(f"the device mps is not supported: {lacking}", "`--device cpu` works")
    if name not in ("cpu", "cuda"):
        raise UsageError(f"no such device: {name}", "--device is auto, cpu or cuda")
    if name == "cuda" and not has_gpu:
        raise DalleError("no such device on this machine: cuda", why_no_gpu() or "")
    return torch.device(name)


def why_no_gpu() -> str | None:
    """Return why torch computes on no GPU here, and what helps; None where it does."""
    if torch.cuda.is_available():
        return None

    version = torch.__version__
    if torch.version.cuda is None:
        return f"torch {version} was built without CUDA; {INSTALLING_CUDA} says how to install it"
    return f"torch {version} finds no GPU; does `nvidia-smi` list one?"


def driver_version() -> str | None:
    """Return the version of NVIDIA's driver; None if `nvidia-smi` does not report it."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(told.split()), None)


def device_words(device: torch.device) -> str:
    """Return which device it is, how many of them this machine has, and their memory or cores."""
    if device.type == "cuda":
        count = torch.cuda.device_count()
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return f"{count} x {torch.cuda.get_device_name(0)}, {memory:.0f} GiB each"
    return f"CPU, {os.cpu_count()} cores"


def open_device(
    device: str, precision: str, *, say: Callable[[str], None] | None = None
) -> tuple[torch.device, Precision]:
    """Choose a device and a precision, and make fp32 mean fp32 on that device.

    say  prints a note where other programs use the cores of the CPU, and fewer threads compute;
         None: the number of threads stays as it is

    There is one exception: on a CPU, subnormal numbers (below 1.2e-38) are flushed to zero. A
    processor takes many times as long for them, and a softmax of low temperature is full of them.
    """
    chosen = choose_device(device)
    if chosen.type == "cuda":
        grow_segments()
        # TF32 keeps 10 of the 23 bits of fp32's mantissa, in cuDNN's convolutions by default
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    else:
        keep_freed_memory()
        # before torch computes anything: threads inherit this from the thread that starts them
        torch.set_flush_denormal(True)
        use_fast_fp32_matmul()

    arithmetic = choose_precision(precision, chosen)
    if say is not None:
        ThreadsByLoad(chosen, say).look()
    return chosen, arithmetic


def use_fast_fp32_matmul() -> bool:
    """Enable torch's "medium" fp32 matrix products on the CPU where they are still fp32.

    On some CPUs they are twice as fast, on others they are computed in bf16, which the error of a
    single product reveals. Returns whether they are enabled.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 256, 256, generator=generator)
    exact = a.double() @ b.double()

    torch.set_float32_matmul_precision("medium")
    error = float((a @ b - exact).norm() / exact.norm())
    is_exact = error < FP32_ERROR
    if not is_exact:
        torch.set_float32_matmul_precision("highest")
    return is_exact


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor to a device; to a GPU from pinned memory, so that nobody waits for the copy."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class HostCopies:
    """Copies of tensors on their way to another device, that of the host.

    Waiting for them is waiting for what the GPU was asked to do before, and nothing after.
    """

    def __init__(self, tensors: list[Tensor], device: torch.device) -> None:
        self._copies = [
            tensor.detach().to(device, non_blocking=True, copy=True) for tensor in tensors
        ]
        self._end = torch.cuda.Event() if tensors[0].is_cuda else None
        if self._end is not None:
            self._end.record()

    def arrived(self) -> list[Tensor]:
        """Wait for the copies and return them."""
        if self._end is not None:
            self._end.synchronize()
        return self._copies


def free_memory(device: torch.device) -> int:
    """Return the bytes that can still be allocated.

    On a GPU this includes what torch has reserved and does not use; on a CPU it is the memory that
    the system reports as available.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    try:
        return _system_memory()["MemAvailable"]
    except (OSError, ValueError, KeyError):
        return ASSUMED_FREE


def total_memory(device: torch.device) -> int | None:
    """Return the bytes of memory of a device; a CPU's include swap; None where it is not known."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        entries = _system_memory()
        return entries["MemTotal"] + entries["SwapTotal"]
    except (OSError, ValueError, KeyError):
        return None


def _system_memory() -> dict[str, int]:
    """Return what the system reports of its memory, in bytes."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    entries = dict(line.split(":") for line in lines)
    return {name: int(entry.split()[0]) * 1024 for name, entry in entries.items()}


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error is a failed allocation of torch, or of a library that it calls."""
    is_told = any(words in str(error) for words in OUT_OF_MEMORY)
    return isinstance(error, torch.OutOfMemoryError) or is_told


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Convert a failed allocation into a DalleError; its hint names settings that save memory."""
    try:
        yield
    except Exception as error:  # Triton's and inductor's are no RuntimeErrors
        if OUT_OF_SHARED_MEMORY in str(error):
            message = "a compiled kernel needs more shared memory than this GPU has"
            raise DalleError(message, SHARED_MEMORY_HINT) from error
        if not isinstance(error, RuntimeError) or not is_out_of_memory(error):
            raise
        message = f"out of memory: {str(error).splitlines()[0]}"
        raise DalleError(message, OUT_OF_MEMORY_HINT) from error
