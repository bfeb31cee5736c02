"""`dalle doctor`: the parts of this machine or of a run, with remedies for what is amiss."""

import os
import platform
import shutil
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from dalle_cli import __version__
from dalle_cli.commands.reports.damage import run_check
from dalle_cli.console import Terminal
from dalle_cli.errors import DalleError
from dalle_cli.runtime.devices import (
    choose_device,
    device_words,
    driver_version,
    use_fast_fp32_matmul,
)
from dalle_cli.runtime.peak_rates import measure_peak_rates, store_peak_rates
from dalle_cli.runtime.precision import choose_precision
from dalle_cli.storage.run_dir import RunDir

PACKAGES = (
    "torch",
    "numpy",
    "pillow",
    "pydantic",
    "safetensors",
    "tokenizers",
    "youtokentome",
    "deepspeed",
)
TOOLS = ("g++", "ninja", "nvcc")
REMEDIES = {
    "youtokentome": "`make install` builds it; until then, tokenizers learns text vocabularies",
    "deepspeed": "`make install` or `pip install 'dalle-cli[deepspeed]'`; only ZeRO needs it",
    "g++": "install a C++ compiler; youtokentome and deepspeed are built with it",
}


def run_doctor(terminal: Terminal, *, measured: bool) -> None:
    """Print versions, processors, memory, the precision of `auto`, and remedies for missing parts.

    With `measured`, also measure the device's peak rates and store them for later commands.
    """
    device = choose_device("auto")
    packages = {name: _version(name) for name in PACKAGES}
    tools = {name: shutil.which(name) is not None for name in TOOLS}

    facts: dict[str, Any] = {
        "dalle": __version__,
        "python": platform.python_version(),
        "packages": packages,
        "tools": {name: "found" if found else "not found" for name, found in tools.items()},
        "device": device_words(device),
        **({"driver": driver_version()} if device.type == "cuda" else {}),
        "threads": torch.get_num_threads(),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB",
        "free disk here": f"{shutil.disk_usage('.').free / 2**30:.1f} GiB",
        "precision by auto": choose_precision("auto", device),
        "fast exact fp32 route": "taken" if use_fast_fp32_matmul() else "not taken",
    }
    if measured:
        facts["measured"] = _measured(device, terminal)

    missing = [name for name, version in packages.items() if version is None]
    missing += [name for name, found in tools.items() if not found]
    facts["remedies"] = {name: REMEDIES[name] for name in missing if name in REMEDIES}
    terminal.result(_text(facts), facts)


def run_doctor_on_run(folder: Path, terminal: Terminal) -> None:
    """Print which parts of a run or an export are sound; raises DalleError if one is damaged."""
    checks = run_check.check_run(RunDir(folder))
    facts = {"run": str(folder), "parts": [asdict(check) for check in checks]}
    terminal.result(run_check.check_text(checks), facts)
    hint = "what helps is said above, below each part"
    run_check.raise_if_damaged(folder, run_check.problems_of(checks), hint)


def _measured(device: torch.device, terminal: Terminal) -> dict[str, str]:
    rates = measure_peak_rates(device)
    try:
        file = store_peak_rates(device, rates)
        terminal.say(f"stored in {file}: `train/mfu` of later runs is relative to these rates")
    except (OSError, DalleError) as error:
        terminal.warn(f"the rates are not stored: {error}")

    matmul_rates = {
        f"{precision} matrix rate": f"{rate / 1e12:.3g} TFLOP/s"
        for precision, rate in rates.matmul_rates.items()
    }
    return matmul_rates | {
        "memory bandwidth": f"{rates.bandwidth / 1e9:.3g} GB/s",
        "checkpoint write rate": f"{rates.write_rate / 1e9:.3g} GB/s",
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _text(facts: dict[str, Any]) -> str:
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{part:<24}{entry or 'not installed'}" for part, entry in value.items()]
        else:
            lines.append(f"{name:<24}{value}")
    return "\n".join(lines)
