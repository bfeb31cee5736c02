"""What the tests of several processes share."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import run, words_of


@pytest.fixture(scope="session")
def train(pairs: Path, dvae_run: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Train a tiny recipe in a folder, with changes to the settings (__ for the dot)."""

    def train(kind: str, folder: Path, *words: object, **settings: object) -> subprocess.CompletedProcess:
        own = ["--dvae", dvae_run] if kind == "transformer" else []
        changes = words_of({key.replace("__", "."): value for key, value in settings.items()})
        return run(f"train-{kind}", f"{kind}/tiny", "--data", pairs, "--run", folder, *own, *changes, *words)

    return train
