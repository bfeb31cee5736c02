"""Speed and memory beside other libraries', and beside what this machine can do: what `make bench` runs.

Prints tables on stdout and writes all figures to build/bench.json. On a busy machine OMP_NUM_THREADS=1 gives steadier
ratios: threads that wait for one another hide them. Usage: python benchmarks [ROUNDS]
"""

import json
import os
import sys
from typing import Any

from cases import CEILINGS, GROUPS, ROOT, Group
from taking_turns import Comparison, Result, compare, take_turns

FILE = ROOT / "build/bench.json"
ROUNDS = 3


def main(n_rounds: int) -> None:
    """Measure everything, then tell; shares of ceilings are of the best that was seen in the whole run."""
    ceilings = take_turns(CEILINGS, {}, n_rounds)
    groups = [(group, take_turns(group, ceilings, n_rounds)) for group in GROUPS]
    figures: list[dict[str, Any]] = []
    for group, results in ((CEILINGS, ceilings), *groups):
        comparisons = compare(results, group.pairs)
        show(group, results, comparisons, ceilings)
        figures.append(
            {
                "title": group.title,
                "cases": [record(result, ceilings) for result in results.values()],
                "comparisons": [{**vars(pair), "speedup": pair.speedup} for pair in comparisons],
            }
        )
    FILE.parent.mkdir(exist_ok=True)
    told = {"cores": os.cpu_count(), "rounds": n_rounds, "groups": figures}
    FILE.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    print(f"all figures: {FILE.relative_to(ROOT)}")


def show(
    group: Group, results: dict[str, Result], pairs: list[Comparison], ceilings: dict[str, Result]
) -> None:
    """Print one group's table and, below it, its ratios; G/s are operations, or bytes for a copy."""
    print(f"{group.title}\n")
    print(f"  {'':34}{'min s':>9}{'median s':>10}{'G/s':>8}{'of ceiling':>12}{'peak MiB':>10}")
    for name, result in results.items():
        if result.trouble is not None:
            print(f"  {name:34}{result.trouble}")
            continue
        share = share_of_ceiling(result, ceilings)
        rate = f"{result.rate:.0f}" if result.rate else ""
        reached = "" if share is None else f"{share:.0%}"
        print(
            f"  {name:34}{result.best:9.4f}{result.median:10.4f}{rate:>8}{reached:>12}{result.peak_mib:10.0f}"
        )
    for pair in pairs:
        span = f"{min(pair.speedups):.2f} to {max(pair.speedups):.2f}"
        speed = f"{pair.speedup:.2f} times as fast ({span})"
        print(f"  {pair.first} against {pair.second}: {speed}, {pair.memory:.2f} of the memory")
    print()


def record(result: Result, ceilings: dict[str, Result]) -> dict[str, Any]:
    """Put one case's figures as JSON has them."""
    told = {"name": result.case.name, "command": result.case.command}
    if result.trouble is not None:
        return {**told, "trouble": result.trouble}
    return {
        **told,
        "min_s": result.best,
        "median_s": result.median,
        "peak_mib": result.peak_mib,
        "giga_per_s": result.rate or None,
        "share_of_ceiling": share_of_ceiling(result, ceilings),
        "rounds": result.rounds,
    }


def share_of_ceiling(result: Result, ceilings: dict[str, Result]) -> float | None:
    """Tell what part of its ceiling's speed a case reached, where its work is known."""
    if (
        result.case.ceiling is None
        or not result.rate
        or ceilings[result.case.ceiling].trouble is not None
    ):
        return None
    return result.rate / ceilings[result.case.ceiling].rate


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
