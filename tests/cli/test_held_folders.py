"""Two commands never write to one folder at once."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dalle_cli.storage.atomic import exclusive_lock
from dalle_cli.storage.run_dir import RunDir


def test_training_keeps_out_of_a_run_under_way(
    own_dvae_run: Path, pairs: Path, dalle: Callable, settings: Callable
) -> None:
    words = [
        "train-dvae",
        "dvae/tiny",
        "--data",
        pairs,
        "--run",
        own_dvae_run,
        *settings(),
    ]
    shutil.rmtree(RunDir(own_dvae_run).checkpoint(11))

    with exclusive_lock(own_dvae_run):
        ended = dalle(*words)
    assert ended.code == 1 and f"another command is writing to {own_dvae_run}" in ended.err
    assert dalle(*words).code == 0


@pytest.mark.parametrize("command", ["generate", "rerank"])
def test_results_of_one_job_are_not_written_twice_at_once(
    command: str,
    transformer_run: Path,
    clip_run: Path,
    pairs: Path,
    tmp_path: Path,
    dalle: Callable,
) -> None:
    words = {
        "generate": ["generate", transformer_run, "a ring", "-n", 1],
        "rerank": ["rerank", pairs, "a ring", "--clip", clip_run],
    }[command]
    assert dalle(*words, "--out", tmp_path / "out").code == 0
    with exclusive_lock(tmp_path / "out"):
        ended = dalle(*words, "--out", tmp_path / "out")
    assert ended.code == 1 and "another command is writing to" in ended.err
