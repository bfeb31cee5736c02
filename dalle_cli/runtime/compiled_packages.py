"""Packages of compiled steps for CPUs, stored in the user's cache folder for later processes.

A package holds machine code and the weights, laid out for it, so it is found by a fingerprint of
all that it depends on: the step with its weights, the arguments' layout, the code of this program,
torch, its options, the processor and the threads. It is a convenience: where there is none, or a
damaged one, the step is compiled anew. Knows nothing of what a step computes.
"""

import hashlib
import os
import platform
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import dalle_cli
from dalle_cli.storage.run_dir import cache_folder

MOST_KEPT = 4  # packages, each as large as the weights
WRITABLE_BY_OTHERS = 0o022
PROCESSOR_FIELDS = ("vendor_id", "cpu family", "model", "stepping", "flags", "CPU", "Features")

Options = dict[str, str | int | bool | Callable[..., Any]]
Layout = list[tuple[torch.dtype, torch.Size, tuple[int, ...]]]
Run = Callable[[list[Tensor]], list[Tensor]]


def layout_of(tensors: Sequence[Tensor]) -> Layout:
    """Return what compiled code assumes of its arguments."""
    return [(tensor.dtype, tensor.shape, tensor.stride()) for tensor in tensors]


def load_or_compile(step: nn.Module, arguments: Any, options: Sequence[Options]) -> Run:
    """Load the package of a step, or compile one; its function takes a list of all tensors.

    arguments  of each call, a nest of tensors, of which only the layout matters
    options    for the compiler, the best first: others are for steps that it refuses with them
    """
    tensors, nest = pytree.tree_flatten(arguments)
    fingerprint = _fingerprint([step, str(nest), layout_of(tensors), options, _surroundings()])

    with _private_folder() as folder, _one_at_a_time(folder, fingerprint):
        path = folder / f"{fingerprint}.pt2"
        run = _load(path)
        if run is None:
            compile_package(_Flat(step, nest), tensors, options=options, path=path)
            run = _load(path)
            assert run is not None, path
        _keep_latest(folder, path)
        return run


def compile_package(
    step: nn.Module, tensors: list[Tensor], *, options: Sequence[Options], path: Path
) -> None:
    """Compile a step for tensors like these into a package, which appears complete or not at all.

    Raises RuntimeError where the compiler refuses the step with all of the options.
    """
    from torch._inductor import aoti_compile_and_package as compile_
    from torch._inductor.utils import fresh_cache

    # tensors made in inference mode can't be traced
    with torch.inference_mode(False), torch.no_grad():
        examples = tuple(torch.zeros_like(tensor) for tensor in tensors)
        program = torch.export.export(step, examples)

        with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
            package = os.path.join(temporary, path.name)
            # its files hold weights too: none stay behind
            with fresh_cache(dir=temporary):
                _compile_with_one_of(options, partial(compile_, program, package_path=package))
            os.replace(package, path)


def _compile_with_one_of(options: Sequence[Options], compile_: Callable[..., object]) -> None:
    *others, last = options
    for chosen in others:
        with suppress(RuntimeError):
            compile_(inductor_configs=dict(chosen))
            return
    compile_(inductor_configs=dict(last))


class _Flat(nn.Module):
    """A step that takes the tensors of its arguments one by one."""

    def __init__(self, step: nn.Module, nest: pytree.TreeSpec) -> None:
        super().__init__()
        self.step, self._nest = step, nest

    def forward(self, *tensors: Tensor) -> Tensor:
        result: Tensor = self.step(*pytree.tree_unflatten(tensors, self._nest))
        return result


def _load(path: Path) -> Run | None:
    """Load a package; return None if there is none, or a damaged one."""
    from torch._inductor import aoti_load_package

    try:
        with zipfile.ZipFile(path) as package:
            if package.testzip() is not None:
                return None
        run: Run = aoti_load_package(str(path), run_single_threaded=True).loader.run
        return run
    except (OSError, RuntimeError, zipfile.BadZipFile):
        return None


@contextmanager
def _private_folder() -> Iterator[Path]:
    """Yield the packages' folder, or a temporary one where no other could be trusted or written."""
    folder = _cached_folder()
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


@contextmanager
def _one_at_a_time(folder: Path, fingerprint: str) -> Iterator[None]:
    """Make other processes wait that need the same package, so that one compiles for all."""
    from filelock import FileLock

    lock = FileLock(folder / f".{fingerprint}.lock")
    with suppress(OSError, NotImplementedError):  # without locks in a file system, each compiles
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _cached_folder() -> Path | None:
    """Return the packages' folder, created if need be; None if it can't be trusted or written."""
    root = cache_folder()
    if root is None:
        return None
    folder = root / "compiled"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder if _is_private(folder) else None
    except OSError:
        return None


def _is_private(folder: Path) -> bool:
    """Return whether nobody else can place code there, which a package is."""
    if not os.access(folder, os.W_OK):
        return False
    if not hasattr(os, "getuid"):  # Windows keeps a user's folder from the others
        return True
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & WRITABLE_BY_OTHERS


def _keep_latest(folder: Path, path: Path) -> None:
    """Mark a package as the latest in use, and remove those that have not been used for longest."""
    with suppress(OSError):  # another process may have removed one
        path.touch()
        packages = sorted(folder.glob("*.pt2"), key=lambda package: package.stat().st_mtime)
        for package in packages[:-MOST_KEPT]:
            package.unlink()
            package.with_name(f".{package.stem}.lock").unlink(missing_ok=True)


def _surroundings() -> list[str]:
    """Describe all that a package depends on apart from the step itself."""
    root = Path(dalle_cli.__file__).parent
    code = hashlib.sha256()
    for source in sorted(root.rglob("*.py")):
        code.update(source.read_bytes())

    precision = torch.get_float32_matmul_precision()
    libraries = [f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(("DNNL", "ONE"))]
    return [
        code.hexdigest(),
        torch.__version__,
        torch.__config__.show(),
        torch.backends.cpu.get_cpu_capability(),
        f"{torch.get_num_threads()} threads, {precision}",
        *libraries,
        *_processor(),
    ]


def _processor() -> list[str]:
    """Return the model and the instructions of the processor, for all of which code is compiled."""
    try:
        first, _, _ = Path("/proc/cpuinfo").read_text("utf-8").partition("\n\n")
    except OSError:  # not on Linux
        return [platform.machine(), platform.processor(), platform.node()]
    return [line for line in first.splitlines() if line.startswith(PROCESSOR_FIELDS)]


def _fingerprint(value: Any) -> str:
    """Compute a checksum of a value, which is the same in every process."""
    return hashlib.sha256("\0".join(_parts(value, {})).encode()).hexdigest()


def _parts(value: Any, seen: dict[int, int]) -> Iterator[str]:
    """Yield all that a value consists of: tensors as checksums, modules as their attributes.

    seen  numbers of the modules that have been described, by identity: several may share one
    """
    if isinstance(value, Tensor):
        content = value.detach().contiguous().reshape(-1).view(torch.uint8)
        yield f"{layout_of([value])} {hashlib.sha256(content.numpy().data).hexdigest()}"
    elif isinstance(value, nn.Module):
        is_new = id(value) not in seen
        yield f"{type(value).__qualname__} {seen.setdefault(id(value), len(seen))}"
        if is_new:
            yield from _parts(vars(value), seen)
    elif isinstance(value, MethodType):
        yield from _parts([value.__func__.__qualname__, value.__self__], seen)
    elif isinstance(value, set):  # of strings: their order differs by process
        yield from sorted(map(repr, value))
    elif isinstance(value, dict | list | tuple):
        parts = chain.from_iterable(value.items()) if isinstance(value, dict) else value
        yield f"{type(value).__name__} of {len(value)}"
        for part in parts:
            yield from _parts(part, seen)
    else:  # where it shows an address, the step is compiled in each process
        yield repr(value)
