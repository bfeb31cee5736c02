"""How processor time and memory grow with sizes, as exponents, beside those of theory.

    .venv/bin/python benchmarks/growth.py           all axes, in about half an hour
    .venv/bin/python benchmarks/growth.py width     those whose title has the word

Each size runs in a fresh process of one thread. Processor time is what the process itself has used,
which other programs hardly change; memory is its peak, less what it had before it built anything.
An exponent is the slope of the straight line through the logarithms, for all sizes and for the two
largest alone. Theory's is fitted to its counts at the same sizes: neither is a pure power.

Prints a table for each axis and writes build/growth.json. Imports nothing large: on Linux, the peak
memory of a process is at least that of its parent.
"""

import json
import math
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cases import ROOT, Case
from taking_turns import Result, run

FILE = ROOT / "build/growth.json"
# by the key of a case's figures, as `measuring.report` prints them
THEORIES = {
    "flops": "G operations",
    "moved": "GB read",
    "expected_bytes": "GB held",
}


@dataclass(frozen=True)
class Axis:
    """A script of this folder, and the sizes that take the place of the braces."""

    title: str
    command: str
    sizes: tuple[int, ...]


UPDATE, GENERATION, OPENING = "growing_step.py", "growing_generation.py", "opening_shards.py"
AXES = (
    Axis("update: width", UPDATE + " model.d_model={}", (128, 256, 512, 1024)),
    Axis("update: layers", UPDATE + " model.n_layers={}", (2, 4, 8, 16)),
    Axis("update: side of the grid", UPDATE + " model.grid_size={}", (8, 16, 24, 32)),
    Axis("update: text positions", UPDATE + " model.text_len={}", (32, 128, 512, 1024)),
    Axis("update: batch", UPDATE + " training.global_batch_size={}", (2, 4, 8, 16, 32)),
    Axis("generation: samples of as many captions", GENERATION + " {0} {0}", (1, 4, 16, 64, 256)),
    Axis("generation: candidates of one caption", GENERATION + " {} 1", (1, 4, 16, 64, 256)),
    Axis("opening first: thousands of samples", OPENING + " first {}", (1, 10, 100, 1000)),
    Axis("opening again: thousands of samples", OPENING + " again {}", (1, 10, 100, 1000)),
)


def main(word: str) -> None:
    """Measure the axes whose title has the word, and print and write what was found."""
    os.environ["OMP_NUM_THREADS"] = "1"
    found = [grown(axis) for axis in AXES if word in axis.title]
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(f"all figures: {FILE.relative_to(ROOT)}")


def grown(axis: Axis) -> dict[str, Any]:
    """Measure an axis, print its table and return its rows: values by size, and the exponent."""
    rows: dict[str, list[float]] = {}
    for size in axis.sizes:
        print(f"{axis.title}: {size}", file=sys.stderr)
        for name, value in values_at(axis.command.format(size)).items():
            rows.setdefault(name, []).append(value)

    head = "".join(f"{size:>10,}" for size in axis.sizes)
    print(f"{axis.title}\n\n  {'':22}{head}  exponent  at the end")
    exponents = {
        name: (slope(axis.sizes, values), slope(axis.sizes[-2:], values[-2:]))
        for name, values in rows.items()
    }
    for name, values in rows.items():
        cells = "".join(f"{value:>10.3g}" for value in values)
        print(f"  {name:22}{cells}{exponents[name][0]:>10.2f}{exponents[name][1]:>12.2f}")
    print()
    return {"title": axis.title, "sizes": axis.sizes, "rows": rows, "exponents": exponents}


def values_at(command: str) -> dict[str, float]:
    """Run a case once; return seconds, memory and what theory counts, in units that read well."""
    result = Result(Case(command, command))
    run(result)
    if result.trouble is not None:
        sys.exit(f"{command}: {result.trouble}")

    (figures,) = result.rounds
    held = figures["peak_bytes"] - figures["base_bytes"]
    values = {"processor seconds": min(figures["cpu_seconds"]), "MiB held": held / 2**20}
    for key, name in THEORIES.items():
        if figures.get(key):
            values[f"theory, {name}"] = figures[key] / 1e9
    return values


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of the line through the logarithms, of least squares.

    A memory of 0 is too little to have shown, and left out.
    """
    logs = [(math.log(x), math.log(y)) for x, y in zip(sizes, values, strict=True) if y]
    return statistics.linear_regression(*zip(*logs, strict=True)).slope


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
