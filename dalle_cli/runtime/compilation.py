"""How a step of small tensors that is taken thousands of times is run: as it is, compiled, or captured as a CUDA graph.

A step is a module that learns nothing, called with tensors and lists of them, always of the same shapes. It may write
to what it is given, but a second run with the same arguments must change nothing: a capture is preceded by trials.
"""

import os
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

MANY = 8_192  # steps, from which on half a minute of compiling is soon made up for
FEW = (
    4  # rows, up to which inductor's own products beat oneDNN's; a race of both would differ by run
)
TRIALS = 3  # before a capture, as CUDA's libraries choose their ways and make room

# frozen weights are laid out for their products; what calls the kernels is C++ too
ON_CPU = {"freezing": True, "cpp_wrapper": True}
ON_CPU_FEW_ROWS = {**ON_CPU, "max_autotune": True, "max_autotune_gemm_backends": "CPP"}
ON_CUDA = {"max_autotune": True}  # by races: on GPUs bits may differ from run to run


def has_compiler(device: torch.device) -> bool:
    """Say whether this machine has what a step is compiled with: a C++ compiler and Python's headers, or Triton."""
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return False
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return has_triton() and any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang")))
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return shutil.which(get_cpp_compiler()) is not None
    except InvalidCxxCompiler:
        return False


def compile_step(step: nn.Module, compiled_batch_size: int = 0) -> Callable[..., Tensor]:
    """Give what runs a step: the same results, those of a compiled one but for rounding.

    compiled_batch_size  so many rows at a time; 0: it is not compiled. On CPUs, whatever is compiled later in this process
                  has its weights frozen as well
    """
    device = next(step.parameters()).device
    run: Callable[..., Tensor] = step
    if compiled_batch_size and device.type == "cpu":
        from torch._inductor import (
            config as inductor_config,
        )  # not `import torch.…`, which would make torch local

        inductor_config.freezing = True  # weights become constants; who traces knows no options
        options = ON_CPU_FEW_ROWS if compiled_batch_size <= FEW else ON_CPU
        run = torch.compile(step, fullgraph=True, dynamic=False, options=options)
    elif compiled_batch_size:
        run = torch.compile(step, fullgraph=True, dynamic=False, options=ON_CUDA)
    return _Captured(run) if device.type == "cuda" else run


class _Captured:
    """A step as one CUDA graph, so that no kernel waits for its launch.

    The last argument is a list of tensors that the graph reads and writes where they lie; other tensors are copied in.
    """

    def __init__(self, run: Callable[..., Tensor]) -> None:
        self._run = run
        self._held: Any = None

    def __call__(self, *arguments: Any) -> Tensor:
        """Run the step; the result is overwritten by the next call."""
        *copied, held = arguments
        if held is not self._held:
            self._capture(copied, held)
        for own, given in zip(self._arguments, copied, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._result

    def _capture(self, copied: list[Tensor], held: Any) -> None:
        self._held = held
        self._arguments = [tensor.clone() for tensor in copied]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(TRIALS):
                self._run(*self._arguments, held)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = self._run(*self._arguments, held)
