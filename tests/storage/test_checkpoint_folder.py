"""Which checkpoint is the best, which weights inference takes of it, and what is told otherwise."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dalle_cli.errors import DalleError, UsageError
from dalle_cli.runtime.distributed import single_process
from dalle_cli.storage.atomic import file_fingerprint
from dalle_cli.storage.checkpoint_folder import (
    best_step,
    check_checkpoint,
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
    content["files"] = {name: content["files"][name] for name in ("state.json", "log.json")}
    manifest.write_text(json.dumps(content))
    with pytest.raises(DalleError, match="holds no weights"):
        find_saved_weights(run, "last")


def put(run: RunDir, name: str, text: str) -> Path:
    """Put other content into a file of the last checkpoint, sealed anew."""
    folder = run.checkpoint(40)
    (folder / name).write_text(text, encoding="latin-1")
    if name != "manifest.json":
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][name] = file_fingerprint(folder / name)
        (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


DEEP = "[" * 100_000
DAMAGES = [
    *[
        ("state.json", text)
        for text in (
            "[1]",
            "null",
            "{}",
            DEEP,
            "\xff\xfe",
            '{"step": []}',
            '{"step": Infinity}',
            '{"step": -5}',
            '{"step": 39}',
            '{"step": 1e30}',
            f'{{"step": {10**30}}}',
            '{"step": "40"}',
            '{"step": true}',
            '{"step": 40, "valid_loss": "x"}',
            f'{{"step": 40, "optimizer_updates": {10**400}}}',
            '{"step": 40, "optimizer_updates": 41}',
            '{"step": 40, "ema_updates": -1}',
            '{"step": 40, "plateau_best": NaN}',
        )
    ],
    *[("log.json", text) for text in ('{"a": 1}', "5", '[{"x": "1"}]', "[[]]", DEEP, "")],
    *[("losses.json", text) for text in ("{}", '["1"]', "[NaN]", "[[1.0]]", DEEP)],
    *[
        ("manifest.json", text)
        for text in (
            DEEP,
            "[]",
            '{"schema": 1}',
            '{"schema": 1, "files": {}}',
            '{"schema": 1, "files": {"state.json": 5}}',
            '{"schema": 2, "files": {}}',
        )
    ],
]


@pytest.mark.parametrize(("name", "text"), DAMAGES)
def test_content_that_cannot_be_right_is_corruption(name: str, text: str, run: RunDir) -> None:
    """However it came about, and whatever the checksums say."""
    folder = put(run, name, text)
    with pytest.raises(DalleError, match=f"corrupt checkpoint {folder}: "):
        check_checkpoint(folder)
    assert best_step(held_out_losses(run)) == 20


@pytest.mark.parametrize("name", ["state.json", "log.json", "ema.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_file_without_an_end_is_corruption(
    name: str, kind: str, run: RunDir, hang_guard: None
) -> None:
    path = run.checkpoint(40) / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(DalleError, match="not a regular file"):
        check_checkpoint(path.parent)
    assert best_step(held_out_losses(run)) == 20
