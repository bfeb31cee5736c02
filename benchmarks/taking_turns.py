"""Run cases in fresh processes, one after the other and round after round.

On a busy machine, only the ratio of neighbours in time means anything. Imports nothing large: on
Linux, the peak memory of a process is at least that of its parent.
"""

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cases import PEERS, Case, Group

HERE = Path(__file__).parent


@dataclass
class Result:
    """The figures of a case, round by round."""

    case: Case
    rounds: list[dict[str, Any]] = field(default_factory=list)  # as `measuring.report` prints them
    trouble: str | None = None  # why there is no figure

    @property
    def best(self) -> float:
        return min(second for taken in self.rounds for second in taken["seconds"])

    @property
    def median(self) -> float:
        return statistics.median(second for taken in self.rounds for second in taken["seconds"])

    @property
    def peak_mib(self) -> float:
        return max(taken["peak_bytes"] for taken in self.rounds) / 2**20

    @property
    def rate(self) -> float:
        """Billions of floating-point operations or of bytes moved per second; 0 if unknown."""
        return (self.rounds[0]["flops"] + self.rounds[0]["moved"]) / self.best / 1e9


@dataclass(frozen=True)
class Comparison:
    """Speed and memory of one case as multiples of another's; speed round by round."""

    first: str
    second: str
    speedups: list[float]
    memory: float

    @property
    def speedup(self) -> float:
        return statistics.median(self.speedups)


def take_turns(group: Group, ceilings: dict[str, Result], n_rounds: int) -> dict[str, Result]:
    """Run every case once per round, and the ceilings that the group names.

    Ceilings add to the rounds they have. A case that fails is not run again.
    """
    results = {case.name: Result(case) for case in group.cases}
    named = dict.fromkeys(case.ceiling for case in group.cases if case.ceiling is not None)
    title = group.title.partition(":")[0]

    for i in range(n_rounds):
        for result in (*results.values(), *(ceilings[name] for name in named)):
            if result.trouble is None:
                print(f"round {i + 1} of {n_rounds}: {title}: {result.case.name}", file=sys.stderr)
                run(result)

    return results


def run(result: Result) -> None:
    """Run a case in a fresh process and record its figures, or why it failed."""
    case = result.case
    if not case.python.exists():
        result.trouble = (
            "not installed: make bench-peer"
            if case.python == PEERS
            else f"no such file: {case.python}"
        )
        return

    script, *arguments = case.command.split()
    process = subprocess.run(
        [case.python, HERE / script, *arguments], capture_output=True, text=True
    )

    if process.returncode:
        result.trouble = (
            process.stderr.strip().splitlines() or [f"ended with {process.returncode}"]
        )[-1]
    else:
        result.rounds.append(json.loads(process.stdout.splitlines()[-1]))


def compare(results: dict[str, Result], pairs: tuple[tuple[str, str], ...]) -> list[Comparison]:
    """Compare the pairs whose cases both ran."""
    comparisons = []
    for first, second in pairs:
        a, b = results[first], results[second]
        if a.trouble is not None or b.trouble is not None:
            continue

        minima = [
            (min(x["seconds"]), min(y["seconds"])) for x, y in zip(a.rounds, b.rounds, strict=True)
        ]
        comparisons.append(
            Comparison(first, second, [y / x for x, y in minima], a.peak_mib / b.peak_mib)
        )
    return comparisons
