"""Two commands never write to one folder at once."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dalle_cli.console import Terminal
from dalle_cli.errors import DalleError
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.distributed import single_process
from dalle_cli.storage.atomic import exclusive_lock
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training.run import TrainOptions, open_run


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


def test_training_that_is_refused_leaves_no_trace_in_the_folder_of_another(
    tmp_path: Path, pairs: Path, dalle: Callable, settings: Callable, tree: Callable
) -> None:
    """Two commands begin at once: the record of the second would make the first run a lie."""
    run = tmp_path / "run"
    run.mkdir()
    words = ["train-dvae", "dvae/tiny", "--data", pairs, "--run", run, *settings()]
    with exclusive_lock(run):
        ended = dalle(*words, "--set", "training.seed=7")
    assert ended.code == 1 and "another command is writing to" in ended.err
    assert tree(tmp_path) == {"run": ""}


def test_training_begun_by_another_command_meanwhile_is_not_written_over(
    dvae_run: Path, tmp_path: Path, pairs: Path, tree: Callable
) -> None:
    """It is begun between the look at the folder and the first write."""
    folder = tmp_path / "run"
    run = open_run(
        load_recipe("dvae/tiny", [], kind="dvae"),
        TrainOptions(data=(str(pairs),), run=folder),
        terminal=Terminal(),
        world=single_process(torch.device("cpu")),
        captions_required=False,
    )
    shutil.copytree(dvae_run, folder)
    before = tree(folder)
    with pytest.raises(DalleError, match="meanwhile"), run.writing():
        run.record()
    assert tree(folder) == before
