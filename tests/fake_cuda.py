"""A GPU without values: tensors know their device, dtype and shape, and the host stays real.

Mixing devices is an error, as on a GPU, and every wait of the host for the GPU is noted. The host's
tensors have values, except those of modules made inside `building()`. What only a GPU has (streams,
events, graphs, properties) is replaced, and what is to be compiled runs as it is; kernels, values
and memory can't be known here.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from ctypes import CDLL
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)
MEMORY = 80 * 2**30
SOURCE = Path(__file__).with_suffix(".cpp")
BUILT = SOURCE.parents[1] / "build" / f"fake_cuda-{torch.__version__}.so"
STAGED = 2**16  # bytes that CUDA takes over at once, if asked not to block, from any host memory
aten = torch.ops.aten


def hooks() -> CDLL:
    """Compile fake_cuda.cpp unless that is done, and load it."""
    if not BUILT.is_file() or BUILT.stat().st_mtime < SOURCE.stat().st_mtime:
        BUILT.parent.mkdir(exist_ok=True)
        own = BUILT.with_suffix(f".{os.getpid()}")
        root = Path(torch.__file__).parent
        includes = [f"-I{root}/include"]
        libraries = [f"-L{root}/lib", "-ltorch_cpu", "-lc10"]
        command = ["c++", "-std=c++20", "-shared", "-fPIC", str(SOURCE), *includes, *libraries]
        subprocess.run([*command, "-o", str(own)], check=True)
        own.replace(BUILT)  # whole or not at all: several processes may run tests
    return CDLL(str(BUILT))


class FakeCuda(TorchDispatchMode):
    """Runs what concerns the GPU without values and everything else as usual.

    waits  the operations for which the host waited until the GPU had done all its work
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._fake = FakeTensorMode()
        self._is_building = False
        self._pinned: dict[int, Tensor] = {}  # by storage

    @contextlib.contextmanager
    def building(self) -> Iterator[None]:
        """Make tensors of the host without values too, so that modules can be moved."""
        self._is_building = True
        try:
            yield
        finally:
            self._is_building = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        if func in (aten._pin_memory.default, aten.pin_memory.default):
            return self._pin(args[0])
        if not self._is_building and _is_of_host(leaves):
            return func(*args, **kwargs)

        with self:
            composed = _parts_of(func, args, kwargs)
        if composed is not NotImplemented:
            return composed
        for leaf in leaves:
            if isinstance(leaf, torch.Generator):
                wanted = kwargs.get("device") or args[0].device
                assert leaf.device.type == torch.device(wanted).type, "generator elsewhere"
        if "_foreach_" in str(func):  # of which torch's fakes check each tensor by itself
            places = {leaf.device.type for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim}
            assert len(places) < 2, f"not on the same device: {func}"
        if func in ANSWERS:
            if _on_gpu(args[0]):
                self.waits.append(str(func))
            return ANSWERS[func](*args, **kwargs)
        if func is aten.index.Tensor and _on_gpu(args[0]):
            args = (args[0], self._chosen(args[1]))
        with self._fake:
            result = func(*tree_map(self._fake_of, args), **tree_map(self._fake_of, kwargs))
        return self._copied(func, args, kwargs, result)

    def _chosen(self, indices: list[Tensor | None]) -> list[Tensor | None]:
        """Put numbers for masks, as if each chose one entry: the host waits for their count."""
        chosen: list[Tensor | None] = []
        for index in indices:
            if index is None or index.dtype != torch.bool:
                if index is not None and not _on_gpu(index):
                    self.waits.append("an index of the host")
                chosen.append(index)
                continue
            self.waits.append("a mask as an index")
            chosen += [index.new_zeros(1, dtype=torch.int64) for _ in index.shape]
        return chosen

    def _fake_of(self, value: Any) -> Any:
        is_real = isinstance(value, Tensor) and not isinstance(value, FakeTensor)
        return self._fake.from_tensor(value) if is_real else value

    def _pin(self, tensor: Tensor) -> Tensor:
        pinned = tensor.clone()
        self._pinned[pinned.untyped_storage()._cdata] = pinned
        return pinned

    def _copied(self, func: Any, args: tuple, kwargs: dict, result: Any) -> Any:
        """Note a copy between host and GPU that the host waits for; the host gets zeros."""
        if func is aten._to_copy.default:
            source, target, is_free = args[0], result, kwargs.get("non_blocking", False)
        elif func is aten.copy_.default:
            target, source = args[:2]
            is_free = (args[2:] or (False,))[0]
        else:
            return result
        if _on_gpu(source) == _on_gpu(target):
            return result

        if _on_gpu(target):
            is_pinned = source.untyped_storage()._cdata in self._pinned
            is_free = is_free and (is_pinned or source.nbytes <= STAGED)
        if not is_free:
            self.waits.append(f"{func} {source.device.type} to {target.device.type}")
        if _on_gpu(target):
            return result
        return torch.zeros(result.shape, dtype=result.dtype) if target is result else target


def _on_gpu(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type == "cuda"


def _is_of_host(leaves: list[Any]) -> bool:
    """Return whether nothing among the arguments of an operation is fake, or on a GPU."""
    is_placed = any(isinstance(leaf, torch.device) and leaf.type == "cuda" for leaf in leaves)
    return not is_placed and not any(isinstance(leaf, FakeTensor) for leaf in leaves)


def _parts_of(func: Any, args: tuple, kwargs: dict) -> Any:
    """Run an operation by its parts, if it has any, which inference mode leaves to us."""
    is_operator = isinstance(func, torch._ops.OpOverload) and func.namespace == "aten"
    return func.decompose(*args, **kwargs) if is_operator else NotImplemented


def _number(tensor: Tensor) -> float | int | bool:
    """Return what is read where there is no value: no flag is up, and all numbers are 1."""
    return {torch.bool: False}.get(tensor.dtype, 1.0 if tensor.is_floating_point() else 1)


def _each_once(tensor: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor, Tensor]:
    rows = tensor.new_ones(len(tensor), dtype=torch.int64)
    return tensor.clone(), rows, rows


ANSWERS = {
    aten._local_scalar_dense.default: _number,
    aten.unique_consecutive.default: _each_once,
    aten.unique_dim_consecutive.default: lambda tensor, dim, *_: _each_once(tensor),
    aten.unique_dim.default: lambda tensor, dim, *_: _each_once(tensor),
    aten.nonzero.default: lambda tensor: tensor.new_zeros(1, tensor.dim(), dtype=torch.int64),
    aten.bincount.default: lambda tensor, weights=None, minlength=0: tensor.new_zeros(
        max(minlength, 1), dtype=torch.int64
    ),
    aten.equal.default: lambda a, b: True,
}


def _move(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """Do what `nn.Module.to` does: a fake tensor can't be moved by assignment of its data."""
    device, dtype, _, memory_format = torch._C._nn._parse_to(*args, **kwargs)
    for tensor in [*module.parameters(), *module.buffers()]:
        assert isinstance(tensor, FakeTensor), "a module made outside of `building()`"
        if dtype is not None and tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
        if memory_format is not None and tensor.dim() == 4:
            tensor.data = tensor.data.to(memory_format=memory_format)
        if device is not None:
            tensor.fake_device = torch.empty(0, device=device).device  # with an index
    return module


class FakeEvent:
    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record(self, *_: Any) -> None:
        pass

    def synchronize(self) -> None:
        """Wait for what came before `record`; not noted, since it need not be all of the work."""


class FakeStream(FakeEvent):
    def wait_stream(self, other: "FakeStream") -> None:
        pass


class FakeGraph:
    def replay(self) -> None:
        pass


@contextlib.contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """Give torch a GPU without values, for the duration of a `with`."""
    gpu = FakeCuda()
    properties = SimpleNamespace(total_memory=MEMORY, major=9, minor=0, multi_processor_count=132)
    replaced = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_name": lambda device=None: "a fake GPU",
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: (9, 0),
        "is_bf16_supported": lambda including_emulation=True: True,
        "mem_get_info": lambda device=None: (MEMORY, MEMORY),
        "memory_allocated": lambda device=None: 0,
        "memory_reserved": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 0,
        "empty_cache": lambda: None,
        "synchronize": lambda device=None: gpu.waits.append("synchronize"),
        "Event": FakeEvent,
        "Stream": FakeStream,
        "current_stream": lambda device=None: FakeStream(),
        "stream": lambda stream: contextlib.nullcontext(),
        "CUDAGraph": FakeGraph,
        "graph": lambda graph, **options: contextlib.nullcontext(),
    }
    toggle = hooks().toggle
    toggle()
    lifted = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # or `torch.tensor` would copy where nobody sees it
    try:
        with (
            mock.patch.multiple(torch.cuda, **replaced),
            mock.patch.object(nn.Module, "to", _move),
            mock.patch.object(torch, "compile", lambda function, **options: function),
            torch.autograd.set_multithreading_enabled(False),  # threads were started without a GPU
            gpu,
        ):
            yield gpu
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)
        toggle()
