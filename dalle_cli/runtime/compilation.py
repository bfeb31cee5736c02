"""Execution of a step of small tensors that runs thousands of times: eager, compiled or captured.

A capture is a CUDA graph. A step is a module without training, called with tensors and lists of
them, always of the same shapes. It may write to its arguments, but a second run with the same
arguments must change nothing, since a capture is preceded by warm-up runs.
"""

import os
import shutil
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dalle_cli.runtime.compiled_packages import (
    Layout,
    Options,
    Run,
    layout_of,
    load_or_compile,
)

MIN_STEPS_TO_COMPILE = 8_192  # they soon make up for half a minute of compiling
WARMUP_RUNS = 3  # before a capture, in which CUDA's libraries select kernels and allocate memory

# rows, up to which inductor's GEMM templates beat oneDNN's; a race of both would differ by run
MAX_ROWS_FOR_TEMPLATES = 4

# the weights are frozen and laid out for their products; headers would be compiled for one use
ON_CPU: Options = {"freezing": True, "aot_inductor.precompile_headers": False}
ON_CPU_FEW_ROWS: Options = {**ON_CPU, "max_autotune": True, "max_autotune_gemm_backends": "CPP"}
ON_CUDA: Options = {"max_autotune": True}  # by races: on GPUs, bits may differ from run to run


def has_compiler(device: torch.device) -> bool:
    """Return whether this machine can compile a step.

    That takes Python's headers and a C++ compiler, or on a GPU also Triton and a C compiler.
    """
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
    """Return a callable for the step; the results of a compiled step agree up to rounding.

    compiled_batch_size  the number of rows of each call; 0: not compiled

    On CPUs it is loaded if a process has compiled it before, see `runtime.compiled_packages`.
    """
    device = next(step.parameters()).device
    if compiled_batch_size and device.type == "cpu":
        has_few_rows = compiled_batch_size <= MAX_ROWS_FOR_TEMPLATES
        # there are products without a template, such as some of bf16
        return _PackagedStep(step, [ON_CPU_FEW_ROWS, ON_CPU] if has_few_rows else [ON_CPU])

    run: Callable[..., Tensor] = step
    if compiled_batch_size:
        run = torch.compile(step, fullgraph=True, dynamic=False, options=ON_CUDA)
    return _CUDAGraphStep(run) if device.type == "cuda" else run


class _PackagedStep:
    """A step as machine code, which is loaded or compiled for each layout of its arguments.

    The last argument is a list of tensors, or of tuples of them, which the step writes to.
    """

    def __init__(self, step: nn.Module, options: Sequence[Options]) -> None:
        self._step, self._options = step, options
        self._runs: list[tuple[Layout, Run]] = []

    def __call__(self, *arguments: Any) -> Tensor:
        """Run the step."""
        tensors = pytree.tree_leaves(arguments)
        layout = layout_of(tensors)
        for known, run in self._runs:
            if known == layout:
                return run(tensors)[0]

        self._runs.append((layout, load_or_compile(self._step, arguments, self._options)))
        return self(*arguments)


class _CUDAGraphStep:
    """A step as one CUDA graph, so that no kernel waits for its launch.

    The last argument is a list of tensors, which the graph reads and writes in place; the other
    arguments are tensors, which are copied into the graph's inputs.
    """

    def __init__(self, run: Callable[..., Tensor]) -> None:
        self._run = run
        self._captured_state: Any = None

    def __call__(self, *arguments: Any) -> Tensor:
        """Run the step; the result is overwritten by the next call."""
        *inputs, state = arguments
        if state is not self._captured_state:
            self._capture(inputs, state)

        for static, given in zip(self._static_inputs, inputs, strict=True):
            static.copy_(given)
        self._graph.replay()
        return self._result

    def _capture(self, inputs: list[Tensor], state: Any) -> None:
        self._captured_state = None  # until the capture has succeeded
        self._static_inputs = [tensor.clone() for tensor in inputs]

        warmup = torch.cuda.Stream()
        warmup.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warmup):
            for _ in range(WARMUP_RUNS):
                self._run(*self._static_inputs, state)
        torch.cuda.current_stream().wait_stream(warmup)

        self._graph = torch.cuda.CUDAGraph()
        # by default a capture fails where another thread allocates or copies meanwhile
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._result = self._run(*self._static_inputs, state)
        self._captured_state = state
