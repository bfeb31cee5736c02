"""Peak rates of a device, measured by `dalle doctor --measure` and stored for later commands.

Training compares its speed with them (MFU), and `dalle info` estimates how long a checkpoint takes
to write. They are stored by device in the user's cache folder, as a convenience: a file that cannot
be read counts as empty.
"""

import errno
import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import torch

from dalle_cli.runtime.precision import DTYPES, Precision
from dalle_cli.storage.atomic import write_file
from dalle_cli.storage.integrity.disk_space import explain_disk_failure
from dalle_cli.storage.integrity.tensor_files import write_sealed
from dalle_cli.storage.run_dir import NO_CACHE, cache_folder
from dalle_cli.storage.small_files import load_json

ROUNDS = 5
MATRIX_ORDER = {"cpu": 2048, "cuda": 8192}
COPIED_BYTES = {"cpu": 2**27, "cuda": 2**30}  # more than any cache holds
WRITTEN_BYTES = 2**28


@dataclass(frozen=True)
class PeakRates:
    """The best of several rounds.

    matmul_rates  floating-point operations a second, by precision
    bandwidth     bytes a second read and written by a copy
    write_rate    bytes a second of a checkpoint on its way to the disk here, checksums included
    """

    matmul_rates: dict[str, float]
    bandwidth: float
    write_rate: float


def measure_peak_rates(device: torch.device) -> PeakRates:
    """Measure a device by multiplying, copying and writing for a few seconds."""
    dtypes = {precision: DTYPES.get(precision, torch.float32) for precision in get_args(Precision)}
    if device.type == "cpu":
        del dtypes["fp16"]  # nobody trains in it there

    order = MATRIX_ORDER[device.type]
    return PeakRates(
        {name: measure_matmul_rate(device, dtype, order=order) for name, dtype in dtypes.items()},
        measure_bandwidth(device, COPIED_BYTES[device.type]),
        measure_write_rate(Path.cwd(), WRITTEN_BYTES),
    )


def measure_matmul_rate(device: torch.device, dtype: torch.dtype, *, order: int) -> float:
    """Measure the floating-point operations a second of a product of two square matrices."""
    a, b = torch.randn(2, order, order, device=device).to(dtype)
    return 2 * order**3 / _best_seconds(lambda: torch.mm(a, b), device)


def measure_bandwidth(device: torch.device, n_bytes: int) -> float:
    """Measure the bytes a second, read and written, of a copy from memory to memory."""
    source = torch.zeros(n_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * n_bytes / _best_seconds(lambda: target.copy_(source), device)


def measure_write_rate(folder: Path, n_bytes: int) -> float:
    """Measure the bytes a second of a file that is written and sealed as a checkpoint's files are.

    Sealing syncs the file to disk and reads it again for its checksum.
    """
    tensors = {"zeros": torch.zeros(n_bytes, dtype=torch.uint8)}
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        file = Path(temporary) / "zeros.safetensors"
        start = time.perf_counter()
        with explain_disk_failure(file, n_bytes):
            write_sealed(file, tensors)
        return n_bytes / (time.perf_counter() - start)


def _best_seconds(work: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


def peak_rates_file() -> Path | None:
    """Return the path of the file in the user's cache folder; None if there is no such folder."""
    folder = cache_folder()
    return None if folder is None else folder / "measured.json"


def device_key(device: torch.device) -> str:
    """Return the key of stored rates: a model of GPU, or this computer and its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.node()}, {torch.get_num_threads()} threads"


def store_peak_rates(device: torch.device, rates: PeakRates) -> Path:
    """Store the rates of a device and keep those of others.

    Raises OSError or DalleError if that fails.
    """
    path = peak_rates_file()
    if path is None:
        raise OSError(errno.ENOENT, NO_CACHE)
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = _read_stored() | {device_key(device): asdict(rates)}
    write_file(path, json.dumps(stored, indent=1))
    return path


def stored_matmul_rate(device: torch.device, precision: Precision) -> float | None:
    """Return the operations a second measured for a device in a precision; None if not measured."""
    try:
        return float(_read_stored()[device_key(device)]["matmul_rates"][precision])
    except (KeyError, TypeError, ValueError):
        return None


def stored_write_rate(device: torch.device) -> float | None:
    """Return the bytes a second that this machine was measured to write; None if not measured."""
    try:
        return float(_read_stored()[device_key(device)]["write_rate"])
    except (KeyError, TypeError, ValueError):
        return None


def _read_stored() -> dict:
    path = peak_rates_file()
    try:
        found = {} if path is None else load_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
