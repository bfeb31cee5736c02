"""What a device can do at best, measured once by `dalle doctor --measure` and kept for training to be compared with.

Kept in a file of the user's, by device: its figures are a convenience, and a file that can't be read holds none.
"""

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
from dalle_cli.storage.atomic import atomic_write, write_sealed
from dalle_cli.storage.run_dir import cache_file

ROUNDS = 5
ORDER = {"cpu": 2048, "cuda": 8192}  # of the matrices multiplied
WRITTEN = 2**28  # bytes
COPIED = {"cpu": 2**27, "cuda": 2**30}  # bytes, beyond any cache


@dataclass(frozen=True)
class PeakRates:
    """The best of several rounds.

    matmul_rates  floating-point operations a second, by precision
    bandwidth     bytes a second read and written by a copy
    write_rate    bytes a second that a checkpoint brings to the disk here, checksums included
    """

    matmul_rates: dict[str, float]
    bandwidth: float
    write_rate: float


def measured_file() -> Path:
    """Name the file, in the user's cache folder."""
    return cache_file().with_name("measured.json")


def device_key(device: torch.device) -> str:
    """Name what has been measured: a kind of GPU, or so many threads of this computer's processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.node()}, {torch.get_num_threads()} threads"


def measure(device: torch.device) -> PeakRates:
    """Multiply and copy for a few seconds."""
    dtypes = {precision: DTYPES.get(precision, torch.float32) for precision in get_args(Precision)}
    if device.type == "cpu":
        del dtypes["fp16"]  # nobody trains in it there
    rates = {
        precision: matmul_rate(device, dtype, ORDER[device.type])
        for precision, dtype in dtypes.items()
    }
    return PeakRates(rates, bandwidth(device, COPIED[device.type]), write_rate(Path.cwd(), WRITTEN))


def matmul_rate(device: torch.device, dtype: torch.dtype, order: int) -> float:
    """Multiply two square matrices; give operations a second."""
    a, b = torch.randn(2, order, order, device=device).to(dtype)
    return 2 * order**3 / _best_seconds(lambda: torch.mm(a, b), device)


def bandwidth(device: torch.device, n_bytes: int) -> float:
    """Copy from memory to memory; give bytes a second, read and written."""
    source = torch.zeros(n_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * n_bytes / _best_seconds(lambda: target.copy_(source), device)


def write_rate(folder: Path, n_bytes: int) -> float:
    """Write a file as a checkpoint's are written, synced and read again for its checksum; give bytes a second."""
    tensors = {"zeros": torch.zeros(n_bytes, dtype=torch.uint8)}
    with tempfile.TemporaryDirectory(dir=folder) as beside:
        start = time.perf_counter()
        write_sealed(Path(beside) / "zeros.safetensors", tensors)
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


def keep(device: torch.device, measured: PeakRates) -> Path:
    """Write down what has been measured, beside what is known of other devices; raises OSError where that fails."""
    path = measured_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as beside:
        beside.write_text(json.dumps(_kept() | {device_key(device): asdict(measured)}, indent=1))
    return path


def stored_matmul_rate(device: torch.device, precision: Precision) -> float | None:
    """Look up what has been measured of such a device, if it has."""
    try:
        return float(_kept()[device_key(device)]["matmul_rates"][precision])
    except (KeyError, TypeError, ValueError):
        return None


def stored_write_rate(device: torch.device) -> float | None:
    """Look up how fast this machine has been found to write, if it has."""
    try:
        return float(_kept()[device_key(device)]["write_rate"])
    except (KeyError, TypeError, ValueError):
        return None


def _kept() -> dict:
    try:
        found = json.loads(measured_file().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
