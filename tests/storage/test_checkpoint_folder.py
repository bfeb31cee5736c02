"""Which checkpoint is the best, which weights inference takes of it, and what is told otherwise."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dalle_cli.errors import DalleError, UsageError
from dalle_cli.runtime.distributed import single_process
from dalle_cli.storage.checkpoint_folder import (
    best_step,
    find_saved_weights,
    held_out_losses,
)
from dalle_cli.storage.lazy_tensors import Stored
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training.checkpoint import save_checkpoint
from dalle_cli.training.engines.engine import EngineState

ALONE = single_process(torch.device("cpu"))


def save(run: RunDir, step: int, loss: float | None, groups: tuple[str, ...]) -> None:
    tensors = {group: {"w": torch.full((2,), float(step + i))} for i, group in enumerate(groups)}
    numbers = {"step": step} | ({} if loss is None else {"valid_loss": loss})
    save_checkpoint(run.checkpoint(step), EngineState(tensors, numbers), ALONE)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Four checkpoints: the second is the best, the last has not been measured."""
    run = RunDir(tmp_path)
    for step, loss in [(10, 3.0), (20, 1.0), (30, float("nan")), (40, None)]:
        save(run, step, loss, ("parameters", "exp_avg", "ema"))
    return run


@pytest.mark.parametrize(
    ("choice", "step"), [("best", 20), ("last", 40), ("10", 10), ("0000020", 20), ("30", 30)]
)
def test_weights_are_the_averages_of_the_chosen_step(choice: str, step: int, run: RunDir) -> None:
    found = find_saved_weights(run, choice)
    assert found.step == step and [file.name for file in found.files] == ["ema.safetensors"]
    assert Stored(found.files)["w"].tolist() == [step + 2] * 2


def test_weights_are_the_parameters_where_no_average_is_kept(tmp_path: Path) -> None:
    save(RunDir(tmp_path), 5, 1.0, ("parameters", "exp_avg"))
    [file] = find_saved_weights(RunDir(tmp_path), "best").files
    assert load_file(file)["w"].tolist() == [5, 5]


def test_loss_that_is_no_number_is_no_loss(run: RunDir) -> None:
    assert held_out_losses(run) == {10: 3.0, 20: 1.0}
    assert best_step(held_out_losses(run)) == 20 and best_step({}) is None


@pytest.mark.parametrize("choice", ["15", "0"])
def test_unknown_step_is_told_with_those_there_are(choice: str, run: RunDir) -> None:
    with pytest.raises(UsageError, match="has no checkpoint of step") as caught:
        find_saved_weights(run, choice)
    assert "10, 20, 30, 40" in caught.value.hint


def test_best_of_none_that_was_measured_is_told(tmp_path: Path) -> None:
    save(RunDir(tmp_path), 5, None, ("parameters",))
    with pytest.raises(UsageError, match="has a held-out loss") as caught:
        find_saved_weights(RunDir(tmp_path), "best")
    assert "of step 5" in caught.value.hint


def test_run_without_checkpoints_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no checkpoints"):
        find_saved_weights(RunDir(tmp_path), "last")


def test_damaged_weights_are_told_and_other_damage_does_not_matter(run: RunDir) -> None:
    folder = run.checkpoint(20)
    (folder / "exp_avg.safetensors").write_bytes(b"")
    assert find_saved_weights(run, "best").step == 20
    (folder / "ema.safetensors").write_bytes(b"")
    with pytest.raises(DalleError, match=r"ema\.safetensors does not match its checksum"):
        find_saved_weights(run, "best")


def test_checkpoint_without_weights_is_told(run: RunDir) -> None:
    manifest = run.checkpoint(40) / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"] = {"state.json": content["files"]["state.json"]}
    manifest.write_text(json.dumps(content))
    with pytest.raises(DalleError, match="holds no weights"):
        find_saved_weights(run, "last")
