"""How tests start several processes: whole commands, or a script in each process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from dalle_cli.runtime.processes.launcher import free_port

LIMIT = 120  # seconds after which something hangs
SETTINGS = {
    "training.steps": 20,
    "training.global_batch_size": 8,
    "runtime.workers": 0,
    "runtime.report_every": 1,
    "runtime.validate_every": 10,
    "runtime.preview_every": 20,
    "runtime.save_every": 10,
}


def words_of(settings: dict[str, object]) -> list[str]:
    """Return settings, on top of those of all these tests, as `--set` words."""
    return [
        word for key, value in (SETTINGS | settings).items() for word in ("--set", f"{key}={value}")
    ]


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "dalle_cli", *map(str, words)]


def run(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*words), capture_output=True, text=True, timeout=LIMIT, check=False
    )


def children_of(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def losses(folder: Path) -> list[float]:
    """Read a run's training losses, step by step."""
    return figures(folder, "train/loss")


def figures(folder: Path, name: str) -> list[float]:
    """Read one of a run's figures, report by report."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def answers(script: Path, n_processes: int, *words: object, limit: int = LIMIT) -> list[Any]:
    """Run a script in n processes that find one another; return the last JSON line of each."""
    place = {
        "WORLD_SIZE": str(n_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), *map(str, words)],
            env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(n_processes)
    ]
    try:
        outputs = [process.communicate(timeout=limit)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(process.returncode for process in processes)
    return [json.loads(output.splitlines()[-1]) for output in outputs]
