"""Every benchmark of a GPU, one process after another, within a limit of time.

Shares are of the matrix rate in the same precision, and of the bandwidth, measured first. A process
that crashes, hangs or comes too late costs its own cases alone; the file is whole after every case.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Timer
from typing import Any

import torch
from gpu_measuring import DEVICE, open_gpu

from dalle_cli.runtime.devices import device_words, driver_version, why_no_gpu

HERE = Path(__file__).parent
ROOT = HERE.parent
FILE = ROOT / "build/gpu-bench.json"
LIMIT = 270.0  # seconds for everything
SCRIPTS = (  # what matters most comes first, what compiles longest last
    "gpu_rates.py",
    "gpu_training.py base",
    "gpu_generation.py captured 1 8 64 512",
    "gpu_pictures.py",
    "gpu_training.py large",
    "gpu_generation.py compiled 1 64",
)


def main() -> int:
    """Run all scripts and print the table; return the exit code."""
    reason = why_no_gpu() if DEVICE == "cuda" else None
    if reason is not None:
        print(f"no benchmarks on a GPU: {reason}", file=sys.stderr)
        return 1

    bench = Bench()
    for script in SCRIPTS:
        bench.run(script)
    bench.show()
    print(f"all figures: {FILE.relative_to(ROOT)}")
    return int(bench.has_failed)


@dataclass
class Bench:
    """The cases so far."""

    begun: float = field(default_factory=time.monotonic)
    machine: dict[str, Any] = field(default_factory=lambda: machine())
    rates: dict[str, Any] = field(default_factory=dict)
    cases: list[dict[str, Any]] = field(default_factory=list)
    has_failed: bool = False

    def run(self, script: str) -> None:
        """Run a script in a process of its own, for the seconds that are left."""
        left = LIMIT - (time.monotonic() - self.begun)
        if left <= 0:
            self.cases.append({"name": script, "trouble": f"left out after {LIMIT:.0f} s"})
            self.write()
            return

        print(f"{script}, {left:.0f} s left", file=sys.stderr)
        file, *words = script.split()
        process = subprocess.Popen(
            [sys.executable, str(HERE / file), *words], stdout=subprocess.PIPE, text=True
        )
        clock = Timer(left, process.kill)
        clock.start()
        assert process.stdout is not None
        for line in process.stdout:
            self.note(line)
        code = process.wait()
        clock.cancel()
        if code:
            self.note_end(script, code)

    def note(self, line: str) -> None:
        """Note a line of a script: rates, or a case; libraries may print others."""
        try:
            told = json.loads(line)
        except ValueError:
            return
        if told.get("name") == "rates":
            self.rates = told
        elif "name" in told:
            self.cases.append(told | self.shares(told))
        self.write()

    def note_end(self, script: str, code: int) -> None:
        """Note that a script has ended before its time."""
        is_late = time.monotonic() - self.begun >= LIMIT
        trouble = f"stopped after {LIMIT:.0f} s" if is_late else f"ended with exit code {code}"
        self.has_failed |= not is_late
        self.cases.append({"name": script, "trouble": trouble})
        self.write()

    def shares(self, case: dict[str, Any]) -> dict[str, float]:
        """Return a case's rates, and their shares of what the GPU does at best."""
        if "trouble" in case:
            return {}
        seconds = case["median_s"]
        found = {
            "samples_per_s": case["n_samples"] / seconds,
            "flops_per_s": case["flops"] / seconds,
            "bytes_per_s": case["moved"] / seconds,
        }
        if self.rates:
            found["of_matrix_rate"] = found["flops_per_s"] / self.rates["matmul"][case["precision"]]
            found["of_bandwidth"] = found["bytes_per_s"] / self.rates["bandwidth"]
        return found

    def write(self) -> None:
        document = {
            **self.machine,
            "seconds": round(time.monotonic() - self.begun, 1),
            "rates": self.rates,
            "cases": self.cases,
        }
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(json.dumps(document, indent=1) + "\n", "utf-8")

    def show(self) -> None:
        """Print the table."""
        for key, value in self.machine.items():
            print(f"{key:8}{value}")
        for precision, rate in self.rates.get("matmul", {}).items():
            print(f"{precision} matrices: {rate / 1e12:.4g} TFLOP/s")
        if self.rates:
            print(f"memory: {self.rates['bandwidth'] / 1e9:.4g} GB/s")

        columns = ("s", "samples/s", "TFLOP/s", "of best", "GB/s", "of best", "peak GiB")
        print(f"\n{'':32}{''.join(f'{column:>11}' for column in columns)}")
        for case in self.cases:
            print(f"{case['name']:32}{row(case)}")
        print(f"\n{time.monotonic() - self.begun:.0f} s; operations and bytes are the least needed")


def row(case: dict[str, Any]) -> str:
    if "trouble" in case:
        return f"  {case['trouble']}"
    of_matrices, of_memory = (
        f"{case[key]:.1%}" if key in case else "" for key in ("of_matrix_rate", "of_bandwidth")
    )
    cells = (
        f"{case['median_s']:.3g}",
        f"{case['samples_per_s']:.4g}",
        f"{case['flops_per_s'] / 1e12:.3g}",
        of_matrices,
        f"{case['bytes_per_s'] / 1e9:.3g}",
        of_memory,
        f"{case['peak_bytes'] / 2**30:.2f}",
    )
    return "".join(f"{cell:>11}" for cell in cells)


def machine() -> dict[str, Any]:
    """Return what the figures belong to."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": device_words(open_gpu()),
        "driver": driver_version(),
        "torch": torch.__version__,
    }
