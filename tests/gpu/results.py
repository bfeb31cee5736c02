"""What became of each test of a GPU: a table, and a file that is whole after every test."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from dalle_cli.runtime.devices import device_words, driver_version

LIMIT = 270.0  # seconds, after which no test begins, so that all are done in five minutes
OUTCOMES = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}


class Results:
    """A plugin of pytest that collects outcomes, seconds and measured figures."""

    def __init__(self, device: torch.device, file: Path) -> None:
        self.tests: list[dict[str, Any]] = []
        self.n_left_out = 0
        self._device = device
        self._file = file
        self._begun = time.monotonic()

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if time.monotonic() - self._begun > LIMIT:
            self.n_left_out += 1
            pytest.skip(f"left out after {LIMIT:.0f} s")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test where it has run, or where it has come to no run."""
        if report.when != "call" and report.passed:
            return
        found = {
            "test": report.nodeid.rpartition("/")[2],
            "outcome": report.outcome,
            "seconds": round(report.duration, 2),
            "figures": [figure for name, figure in report.user_properties if name == "measured"],
        }
        if not report.passed:
            found["why"] = why(report)
        self.tests.append(found)
        self.write()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file that can't be imported."""
        if report.failed:
            named = {"test": report.nodeid, "outcome": "failed", "seconds": 0.0, "figures": []}
            self.tests.append({**named, "why": last_line(str(report.longrepr))})
            self.write()

    def write(self) -> None:
        document = {
            **machine(self._device),
            "seconds": round(time.monotonic() - self._begun, 1),
            "left_out": self.n_left_out,
            "tests": self.tests,
        }
        self._file.parent.mkdir(exist_ok=True)
        self._file.write_text(json.dumps(document, indent=1) + "\n", "utf-8")

    def show(self) -> None:
        """Print the table."""
        for key, value in machine(self._device).items():
            print(f"{key:8}{value}")
        print()
        for test in self.tests:
            name = test["test"].replace("_on_gpu.py::test_", ": ").removeprefix("test_")
            seconds = f"{test['seconds']:.1f} s"
            print(f"{OUTCOMES[test['outcome']]:8}{seconds:>8}  {name.replace('_', ' ')}")
            for figure in test["figures"]:
                print(f"{'':18}{figure['what']}: {figure['found']:.2g} ({bounds(figure)})")
            if "why" in test:
                print(f"{'':18}{test['why']}")
        counts = [
            f"{sum(test['outcome'] == outcome for test in self.tests)} {word}"
            for outcome, word in OUTCOMES.items()
        ]
        print(f"\n{', '.join(counts)}; {time.monotonic() - self._begun:.0f} s")


def machine(device: torch.device) -> dict[str, Any]:
    """Return what the figures belong to."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": device_words(device),
        "driver": driver_version(),
        "torch": torch.__version__,
    }


def bounds(figure: dict[str, Any]) -> str:
    parts = [
        f"{word} {figure[key]:.3g}"
        for key, word in (("least", "at least"), ("most", "at most"))
        if figure[key] is not None
    ]
    return ", ".join(parts)


def why(report: pytest.TestReport) -> str:
    """Return the reason of a skip, or the last line that says what failed."""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return last_line(str(report.longrepr)) if crash is None else crash.message.splitlines()[0]


def last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]
