"""Benchmarks: speed and memory against other libraries, and against the ceilings of this machine.

    make bench                                            all cases, three rounds
    make bench ARGS=1                                     all cases, one round
    make bench DEVICE=cuda                                a GPU, in at most five minutes
    make bench-peer                                       install dalle-pytorch, to compare with it
    .venv/bin/python benchmarks/training_step.py fp32     one case, without its rivals
    .venv/bin/python benchmarks/growth.py                 how cost grows with sizes, by itself

Each case is a script of this folder, run in a fresh process; rivals take turns, round after round,
so that a busy machine slows all of them. Tables go to stdout, all figures to build/bench.json. On a
busy machine, OMP_NUM_THREADS=1 gives steadier ratios: threads that wait for one another hide them.
On a GPU, `gpu_suite.py` measures other cases, without rivals, into build/gpu-bench.json.
"""

import argparse
import json
import os
import sys
from typing import Any

from cases import CEILINGS, GROUPS, ROOT, Group
from taking_turns import Comparison, Result, compare, take_turns

FILE = ROOT / "build/bench.json"
ROUNDS = 3


def main(n_rounds: int) -> None:
    """Measure every group, then print all tables and write all figures.

    Shares of ceilings refer to the best rate of a ceiling in the whole run.
    """
    ceilings = take_turns(CEILINGS, {}, n_rounds)
    groups = [(group, take_turns(group, ceilings, n_rounds)) for group in GROUPS]

    figures: list[dict[str, Any]] = []
    for group, results in ((CEILINGS, ceilings), *groups):
        comparisons = compare(results, group.pairs)
        show(group, results, pairs=comparisons, ceilings=ceilings)
        figures.append(
            {
                "title": group.title,
                "cases": [record(result, ceilings) for result in results.values()],
                "comparisons": [{**vars(pair), "speedup": pair.speedup} for pair in comparisons],
            }
        )

    FILE.parent.mkdir(exist_ok=True)
    document = {"cores": os.cpu_count(), "rounds": n_rounds, "groups": figures}
    FILE.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    print(f"all figures: {FILE.relative_to(ROOT)}")


def show(
    group: Group,
    results: dict[str, Result],
    *,
    pairs: list[Comparison],
    ceilings: dict[str, Result],
) -> None:
    """Print the table of a group and its ratios below; G/s are operations, or bytes for a copy."""
    print(f"{group.title}\n")
    print(f"  {'':34}{'min s':>9}{'median s':>10}{'G/s':>8}{'of ceiling':>12}{'peak MiB':>10}")
    for name, result in results.items():
        if result.trouble is not None:
            print(f"  {name:34}{result.trouble}")
            continue

        share = share_of_ceiling(result, ceilings)
        rate = f"{result.rate:.0f}" if result.rate else ""
        reached = "" if share is None else f"{share:.0%}"
        seconds = f"{result.best:9.4f}{result.median:10.4f}"
        print(f"  {name:34}{seconds}{rate:>8}{reached:>12}{result.peak_mib:10.0f}")

    for pair in pairs:
        span = f"{min(pair.speedups):.2f} to {max(pair.speedups):.2f}"
        speed = f"{pair.speedup:.2f} times as fast ({span})"
        print(f"  {pair.first} against {pair.second}: {speed}, {pair.memory:.2f} of the memory")
    print()


def record(result: Result, ceilings: dict[str, Result]) -> dict[str, Any]:
    """Return the figures of a case as they are written to JSON."""
    case = {"name": result.case.name, "command": result.case.command}
    if result.trouble is not None:
        return {**case, "trouble": result.trouble}

    return {
        **case,
        "min_s": result.best,
        "median_s": result.median,
        "peak_mib": result.peak_mib,
        "giga_per_s": result.rate or None,
        "share_of_ceiling": share_of_ceiling(result, ceilings),
        "rounds": result.rounds,
    }


def share_of_ceiling(result: Result, ceilings: dict[str, Result]) -> float | None:
    """Return the share of its ceiling's rate that a case reached, None if its work is unknown."""
    if (
        result.case.ceiling is None
        or not result.rate
        or ceilings[result.case.ceiling].trouble is not None
    ):
        return None
    return result.rate / ceilings[result.case.ceiling].rate


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        "benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rounds", type=int, nargs="?", default=ROUNDS, help="3 by default")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cpu by default")
    given = parser.parse_args()
    if given.device == "cuda":
        import gpu_suite  # imports torch: a CPU's cases would count its memory as theirs

        sys.exit(gpu_suite.main())
    main(given.rounds)
