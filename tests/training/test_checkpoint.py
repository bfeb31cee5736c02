"""Checkpoints: complete or not there, checked when read, and pruned so that the newest and the best remain."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dalle_cli.errors import DalleError
from dalle_cli.run_dir import RunDir
from dalle_cli.training import checkpoint
from dalle_cli.training.checkpoint import (
    MANIFEST,
    Saver,
    checkpoints,
    incomplete_checkpoints,
    load_checkpoint,
    save_checkpoint,
    save_model,
)
from dalle_cli.training.distributed import solo
from dalle_cli.training.engine import EngineState

ALONE = solo(torch.device("cpu"))
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class PowerCut(BaseException):
    """Ends a save wherever it is."""


def make_state(step: int) -> EngineState:
    generator = torch.Generator().manual_seed(step)
    tensors = {
        group: {"a.weight": torch.randn(5, 3, generator=generator), "a.bias": torch.randn(5, generator=generator)}
        for group in ("parameters", "exp_avg", "exp_avg_sq", "ema")
    }
    return EngineState(tensors, {"step": step, "optimizer_updates": step - 1, "ema_updates": step - 1})


def assert_holds(path: Path, state: EngineState) -> None:
    loaded = load_checkpoint(path)
    torch.testing.assert_close(loaded.tensors, state.tensors, rtol=0, atol=0)
    assert loaded.numbers == state.numbers


def steps_of(run: RunDir) -> list[int]:
    return [step for step, _ in checkpoints(run)]


def saver(run: RunDir, keep: int = 2) -> Saver:
    return Saver(run, {"kind": "toy", "model": {}}, keep, ALONE)


def save(to: Saver, step: int, valid_loss: float | None = None) -> None:
    state = make_state(step)
    to.save(state, state.tensors["ema"], valid_loss)


def test_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "step-00000007", make_state(7), ALONE)
    assert_holds(tmp_path / "step-00000007", make_state(7))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007"]


def test_layout_in_memory_makes_no_difference(tmp_path: Path) -> None:
    weight = torch.randn(4, 3, 2, 2)
    state = EngineState({"parameters": {"w": weight.to(memory_format=torch.channels_last)}}, {"step": 1})
    save_checkpoint(tmp_path / "step-00000001", state, ALONE)
    assert torch.equal(load_checkpoint(tmp_path / "step-00000001").tensors["parameters"]["w"], weight)


def fail_when_full(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FULL

    owner = checkpoint if call == "save_file" else os
    monkeypatch.setattr(owner, call, fail)


@pytest.mark.parametrize("call", ["save_file", "fsync"])
def test_full_disk_leaves_what_was_there_and_says_what_is_needed(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path)
    for step in (3, 6):
        save_checkpoint(run.checkpoint(step), make_state(step), ALONE)
    fail_when_full(monkeypatch, call)
    for step in (6, 9):
        with pytest.raises(DalleError, match="No space left") as caught:
            save_checkpoint(run.checkpoint(step), make_state(step), ALONE)
        assert "needs" in caught.value.hint and "free" in caught.value.hint
    assert_holds(run.checkpoint(3), make_state(3))
    assert_holds(run.checkpoint(6), make_state(6))
    assert incomplete_checkpoints(run) == [] and steps_of(run) == [3, 6]


def test_full_disk_while_the_model_is_written_is_a_known_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = make_state(1).tensors["parameters"]
    save_model(tmp_path / "model", {"kind": "toy"}, weights, ALONE)
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    fail_when_full(monkeypatch, "save_file")
    with pytest.raises(DalleError, match="No space left"):
        save_model(tmp_path / "model", {"kind": "other"}, weights, ALONE)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    assert {name: kept[name] for name in before} == before


@pytest.mark.parametrize("n_before", range(9))
def test_power_cut_at_any_sync_leaves_only_checkpoints_that_load(
    n_before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path)
    save_checkpoint(run.checkpoint(3), make_state(3), ALONE)
    calls = []

    def cut(_: int) -> None:
        calls.append(1)
        if len(calls) > n_before:
            raise PowerCut

    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(os, "fsync", cut)
        save_checkpoint(run.checkpoint(6), make_state(6), ALONE)
    assert_holds(run.checkpoint(3), make_state(3))
    for step, path in checkpoints(run):
        assert_holds(path, make_state(step))
    assert steps_of(run) == ([3, 6] if n_before == 8 else [3])  # six files, the manifest, the folder; then renamed
    save_checkpoint(run.checkpoint(6), make_state(6), ALONE)
    assert_holds(run.checkpoint(6), make_state(6))
    assert incomplete_checkpoints(run) == []


TENSOR_FILES = ["parameters.safetensors", "exp_avg.safetensors", "exp_avg_sq.safetensors", "ema.safetensors"]
FILES = [*TENSOR_FILES, "state.json", "log.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "longer"])
def test_damaged_file_is_named(name: str, damage: str, tmp_path: Path) -> None:
    path = tmp_path / "step-00000003"
    save_checkpoint(path, make_state(3), ALONE)
    content = bytearray((path / name).read_bytes())
    if damage == "truncated":
        content = content[:-1]
    elif damage == "flipped":
        content[-1] ^= 1
    elif damage == "longer":
        content += b"\0"
    (path / name).write_bytes(content)
    if damage == "missing":
        (path / name).unlink()
    with pytest.raises(DalleError, match=rf"corrupt checkpoint .*{name}"):
        load_checkpoint(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"files": 1}', '{"files": {"state.json": 1}}', "\xff"])
def test_damaged_manifest_is_a_corrupt_checkpoint(text: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "step-00000003", make_state(3), ALONE)
    (tmp_path / "step-00000003" / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(DalleError, match="corrupt checkpoint"):
        load_checkpoint(tmp_path / "step-00000003")


def test_folders_without_a_manifest_are_incomplete(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    save_checkpoint(run.checkpoint(3), make_state(3), ALONE)
    shutil.copytree(run.checkpoint(3), run.checkpoint(6))
    (run.checkpoint(6) / MANIFEST).unlink()
    shutil.copytree(run.checkpoint(3), run.checkpoints / "step-00000009.partial")
    assert steps_of(run) == [3]
    assert [path.name for path in incomplete_checkpoints(run)] == ["step-00000006", "step-00000009.partial"]


def test_the_last_few_and_the_best_are_kept(tmp_path: Path) -> None:
    to = saver(RunDir(tmp_path), keep=2)
    kept = []
    for step, loss in [(1, 5.0), (2, 1.0), (3, 4.0), (4, 3.0), (5, 2.0), (6, 0.5), (7, 9.0), (8, 9.0)]:
        save(to, step, loss)
        kept.append(steps_of(to.run))
    assert kept == [[1], [1, 2], [2, 3], [2, 3, 4], [2, 4, 5], [5, 6], [6, 7], [6, 7, 8]]


def test_checkpoints_that_nobody_validated_are_not_the_best(tmp_path: Path) -> None:
    to = saver(RunDir(tmp_path), keep=2)
    for step in range(1, 6):
        save(to, step)
    assert steps_of(to.run) == [4, 5]


def test_diverged_checkpoint_is_not_the_best(tmp_path: Path) -> None:
    to = saver(RunDir(tmp_path), keep=1)
    for step, loss in [(1, float("nan")), (2, 1.0), (3, float("nan")), (4, 3.0)]:
        save(to, step, loss)
    assert steps_of(to.run) == [2, 4]


def test_pruning_never_takes_the_checkpoint_just_saved(tmp_path: Path) -> None:
    """A corrupt later one makes a run go on from an earlier one, so that the newest save is not the last step."""
    to = saver(RunDir(tmp_path), keep=1)
    save(to, 9, 1.0)
    with (to.run.checkpoint(9) / "parameters.safetensors").open("ab") as file:
        file.write(b"damage")
    save(to, 6, 2.0)
    assert 6 in steps_of(to.run)


def test_model_folder_follows_the_last_save(tmp_path: Path) -> None:
    to = saver(RunDir(tmp_path))
    for step in (1, 2):
        save(to, step)
    assert sorted(path.name for path in to.run.model.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((to.run.model / "config.json").read_text())["kind"] == "toy"
    weights = load_file(to.run.model / "model.safetensors")
    torch.testing.assert_close(weights, make_state(2).tensors["ema"], rtol=0, atol=0)


def test_saving_leaves_alone_what_someone_has_put_aside(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    save_checkpoint(run.checkpoint(3), make_state(3), ALONE)
    aside = run.checkpoints / "step-00000003-good"
    run.checkpoint(3).rename(aside)
    left = run.checkpoints / "step-00000005.partial"
    left.mkdir()
    assert incomplete_checkpoints(run) == [left]
    Saver(run, {"kind": "toy"}, keep=1, world=ALONE).save(make_state(6), make_state(6).tensors["ema"], None)
    assert aside.is_dir() and not left.exists()
    assert_holds(aside, make_state(3))
