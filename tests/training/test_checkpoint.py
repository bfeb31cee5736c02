"""Checkpoints: complete or absent, checked when read, and pruned to the newest and the best."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from dalle_cli.errors import DalleError
from dalle_cli.runtime.distributed import World, single_process
from dalle_cli.runtime.processes.ranks import Ranks
from dalle_cli.storage.integrity import tensor_files
from dalle_cli.storage.lazy_tensors import Gathered, Stored
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training import checkpoint
from dalle_cli.training.checkpoint import (
    MANIFEST,
    Saver,
    check_place_for_checkpoints,
    checkpoints,
    incomplete_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from dalle_cli.training.engines.engine import EngineState

ALONE = single_process(torch.device("cpu"))
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class PowerCut(BaseException):
    """Ends a save wherever it is."""


def make_state(step: int) -> EngineState:
    generator = torch.Generator().manual_seed(step)
    tensors = {
        group: {
            "a.weight": torch.randn(5, 3, generator=generator),
            "a.bias": torch.randn(5, generator=generator),
        }
        for group in ("parameters", "exp_avg", "exp_avg_sq", "ema")
    }
    return EngineState(
        tensors, {"step": step, "optimizer_updates": step - 1, "ema_updates": step - 1}
    )


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
    state = EngineState(
        {"parameters": {"w": weight.to(memory_format=torch.channels_last)}}, {"step": 1}
    )
    save_checkpoint(tmp_path / "step-00000001", state, ALONE)
    assert torch.equal(
        load_checkpoint(tmp_path / "step-00000001").tensors["parameters"]["w"], weight
    )


def fail_when_full(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FULL

    monkeypatch.setattr(tensor_files if call == "save_file" else os, call, fail)


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
    Saver(RunDir(tmp_path), {"kind": "toy"}, keep=1, world=ALONE).save_model(weights)
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    fail_when_full(monkeypatch, "save_file")
    with pytest.raises(DalleError, match="No space left"):
        Saver(RunDir(tmp_path), {"kind": "other"}, keep=1, world=ALONE).save_model(weights)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    assert {name: kept[name] for name in before} == before


@pytest.mark.parametrize("n_before", range(10))
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
    assert steps_of(run) == (
        [3, 6] if n_before == 9 else [3]
    )  # seven files, the manifest, the folder; then renamed
    save_checkpoint(run.checkpoint(6), make_state(6), ALONE)
    assert_holds(run.checkpoint(6), make_state(6))
    assert incomplete_checkpoints(run) == []


TENSOR_FILES = [
    "parameters.safetensors",
    "exp_avg.safetensors",
    "exp_avg_sq.safetensors",
    "ema.safetensors",
]
FILES = [*TENSOR_FILES, "state.json", "log.json", "losses.json"]


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


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"files": 1}', '{"files": {"state.json": 1}}', "\xff"]
)
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
    assert [path.name for path in incomplete_checkpoints(run)] == [
        "step-00000006",
        "step-00000009.partial",
    ]


def test_the_last_few_and_the_best_are_kept(tmp_path: Path) -> None:
    to = saver(RunDir(tmp_path), keep=2)
    kept = []
    for step, loss in [
        (1, 5.0),
        (2, 1.0),
        (3, 4.0),
        (4, 3.0),
        (5, 2.0),
        (6, 0.5),
        (7, 9.0),
        (8, 9.0),
    ]:
        save(to, step, loss)
        kept.append(steps_of(to.folder))
    assert kept == [[1], [1, 2], [2, 3], [2, 3, 4], [2, 4, 5], [5, 6], [6, 7], [6, 7, 8]]


def test_checkpoint_that_cannot_be_removed_is_told_and_tried_again(tmp_path: Path) -> None:
    run, warned = RunDir(tmp_path), []
    to = replace(saver(run, keep=1), warn=warned.append)
    save(to, 1)
    in_the_way = run.checkpoint(1).with_name("step-00000001.removed")
    in_the_way.write_text("where the checkpoint would be moved first")
    save(to, 2)
    assert steps_of(run) == [1, 2]
    assert len(warned) == 1 and f"cannot remove {run.checkpoint(1)}: " in warned[0]
    in_the_way.unlink()
    save(to, 3)
    assert steps_of(run) == [3]


def test_checkpoints_that_nobody_validated_are_not_the_best(tmp_path: Path) -> None:
    to = saver(RunDir(tmp_path), keep=2)
    for step in range(1, 6):
        save(to, step)
    assert steps_of(to.folder) == [4, 5]


def test_diverged_checkpoint_is_not_the_best(tmp_path: Path) -> None:
    to = saver(RunDir(tmp_path), keep=1)
    for step, loss in [(1, float("nan")), (2, 1.0), (3, float("nan")), (4, 3.0)]:
        save(to, step, loss)
    assert steps_of(to.folder) == [2, 4]


def test_later_checkpoint_that_was_found_corrupt_is_not_the_best(tmp_path: Path) -> None:
    to = saver(RunDir(tmp_path), keep=2)
    for step, loss in [(3, 1.5), (9, 1.0), (6, 2.0), (7, 3.0)]:  # from 3 again, as 9 was corrupt
        save(to, step, loss)
    assert steps_of(to.folder) == [3, 6, 7, 9]


def test_pruning_never_takes_the_checkpoint_just_saved(tmp_path: Path) -> None:
    """A run may go on before a corrupt checkpoint: the newest save is not the last step then."""
    to = saver(RunDir(tmp_path), keep=1)
    save(to, 9, 1.0)
    with (to.folder.checkpoint(9) / "parameters.safetensors").open("ab") as file:
        file.write(b"damage")
    save(to, 6, 2.0)
    assert 6 in steps_of(to.folder)


def test_model_folder_follows_the_last_save(tmp_path: Path) -> None:
    to = saver(RunDir(tmp_path))
    for step in (1, 2):
        save(to, step)
    assert sorted(path.name for path in to.folder.model.iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    assert json.loads((to.folder.model / "config.json").read_text())["kind"] == "toy"
    weights = load_file(to.folder.model / "model.safetensors")
    torch.testing.assert_close(weights, make_state(2).tensors["ema"], rtol=0, atol=0)


def test_saving_leaves_alone_what_someone_has_put_aside(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    save_checkpoint(run.checkpoint(3), make_state(3), ALONE)
    aside = run.checkpoints / "step-00000003-good"
    run.checkpoint(3).rename(aside)
    left = run.checkpoints / "step-00000005.partial"
    left.mkdir()
    assert incomplete_checkpoints(run) == [left]
    Saver(run, {"kind": "toy"}, keep=1, world=ALONE).save(
        make_state(6), make_state(6).tensors["ema"], None
    )
    assert not left.exists()
    aside.rename(run.checkpoint(3))
    assert_holds(run.checkpoint(3), make_state(3))


def five_tensors() -> EngineState:
    """Make a group of five tensors of 40 bytes each."""
    generator = torch.Generator().manual_seed(5)
    return EngineState(
        {"ema": {f"layer.{i}": torch.randn(10, generator=generator) for i in range(5)}}, {"step": 3}
    )


@pytest.mark.parametrize(
    ("limit", "counts"),
    [(1, [1, 1, 1, 1, 1]), (80, [2, 2, 1]), (81, [3, 2]), (200, [5]), (2**30, [5])],
)
def test_group_is_cut_into_files_once_they_are_big_enough(
    limit: int, counts: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "FILE_BYTES", limit)
    save_checkpoint(tmp_path / "step-00000003", five_tensors(), ALONE)
    names = ["ema.safetensors", *(f"ema.{i}.safetensors" for i in range(1, len(counts)))]
    found = {
        path.name: len(load_file(path))
        for path in (tmp_path / "step-00000003").glob("*.safetensors")
    }
    assert found == dict(zip(names, counts, strict=True))
    assert_holds(tmp_path / "step-00000003", five_tensors())


def test_more_than_ten_files_of_a_group_come_back_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "FILE_BYTES", 1)
    tensors = {group: {f"layer.{i}": torch.full((2,), i + sign) for i in range(13)}
               for group, sign in (("parameters", 0.0), ("exp_avg", 0.5))}  # fmt: skip
    save_checkpoint(tmp_path / "step-00000003", EngineState(tensors, {"step": 3}), ALONE)
    assert (tmp_path / "step-00000003" / "exp_avg.12.safetensors").is_file()
    assert_holds(tmp_path / "step-00000003", EngineState(tensors, {"step": 3}))


def test_saving_again_leaves_no_part_of_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FILE_BYTES", 1)
        save_checkpoint(tmp_path / "step-00000003", make_state(3), ALONE)
    again = EngineState(make_state(4).tensors, make_state(3).numbers)
    save_checkpoint(tmp_path / "step-00000003", again, ALONE)
    assert sorted(path.name for path in (tmp_path / "step-00000003").iterdir()) == sorted(
        [*FILES, MANIFEST]
    )
    assert_holds(tmp_path / "step-00000003", again)


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_damaged_part_of_a_group_is_named(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "FILE_BYTES", 1)
    save_checkpoint(tmp_path / "step-00000003", make_state(3), ALONE)
    part = tmp_path / "step-00000003" / "exp_avg.1.safetensors"
    content = part.read_bytes()
    part.unlink()
    if damage == "truncated":
        part.write_bytes(content[:-1])
    with pytest.raises(DalleError, match=r"corrupt checkpoint .*exp_avg\.1\.safetensors"):
        load_checkpoint(tmp_path / "step-00000003")


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stored:
    """The parameters of step 3, on disk in two files."""
    monkeypatch.setattr(checkpoint, "FILE_BYTES", 1)
    save_checkpoint(tmp_path / "step-00000003", make_state(3), ALONE)
    return Stored(sorted((tmp_path / "step-00000003").glob("parameters*")))


def test_stored_tensors_read_like_a_dict(stored: Stored) -> None:
    plain = make_state(3).tensors["parameters"]
    torch.testing.assert_close(dict(stored.items()), plain, rtol=0, atol=0)
    assert set(stored) == stored.keys() == plain.keys() and len(stored) == 2


def test_stored_tensors_miss_a_name_like_a_dict(stored: Stored) -> None:
    assert "a.bias" in stored and "b.bias" not in stored and stored.get("b.bias") is None
    with pytest.raises(KeyError, match=r"b\.bias"):
        stored["b.bias"]


def test_file_that_holds_no_tensors_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "ema.safetensors").write_bytes(b"no tensors in here")
    with pytest.raises(SafetensorError):
        Stored([tmp_path / "ema.safetensors"])


class Parts:
    """A process's view of a state that all processes gather; records what it was asked for."""

    def __init__(self, state: EngineState) -> None:
        self.asked: list[str] = []
        self.names = [
            f"{group} {name}" for group, tensors in state.tensors.items() for name in tensors
        ]
        gathered = {
            group: self._gathered(group, tensors) for group, tensors in state.tensors.items()
        }
        self.state = EngineState(gathered, state.numbers)

    def _gathered(self, group: str, tensors: dict[str, Tensor]) -> Gathered:
        def gather(name: str) -> Tensor:
            self.asked.append(f"{group} {name}")
            return tensors[name].clone()

        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        return Gathered(shapes, gather, {name: tensor.dtype for name, tensor in tensors.items()})


@pytest.fixture
def other() -> Iterator[World]:
    """The second of two processes, whose first one adds nothing to any sum."""
    torch.distributed.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
    yield World(Ranks(1, 2, 1), torch.device("cpu"))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("limit", [1, 2**30])
def test_gathered_tensors_are_asked_for_once_each_and_saved_whole(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "FILE_BYTES", limit)
    parts = Parts(make_state(3))
    save_checkpoint(tmp_path / "step-00000003", parts.state, ALONE)
    assert parts.asked == parts.names
    assert_holds(tmp_path / "step-00000003", make_state(3))


def test_process_that_writes_no_file_gathers_the_same_tensors_in_the_same_order(
    tmp_path: Path, other: World
) -> None:
    parts = Parts(five_tensors())
    save_checkpoint(tmp_path / "step-00000003", parts.state, other)
    assert parts.asked == parts.names
    assert list(tmp_path.iterdir()) == []


def test_process_that_does_not_see_the_folder_of_the_main_one_says_so(
    tmp_path: Path, other: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "FILE_BYTES", 1)  # so that it has a file to write
    monkeypatch.setattr(checkpoint, "SEEN_WITHIN", 0.0)
    with pytest.raises(DalleError, match=r"process 1 does not see .*, which process 0 has made"):
        save_checkpoint(tmp_path / "step-00000003", make_state(3), other)


@pytest.mark.parametrize("is_main", [True, False])
def test_every_process_gathers_the_weights_of_the_model_and_the_main_one_writes_them(
    is_main: bool, tmp_path: Path, other: World
) -> None:
    parts = Parts(five_tensors())
    to = Saver(RunDir(tmp_path), {"kind": "toy"}, keep=1, world=ALONE if is_main else other)
    to.save_model(parts.state.tensors["ema"])
    assert parts.asked == parts.names
    assert (tmp_path / "model" / "model.safetensors").is_file() == is_main


def test_removal_that_was_cut_short_is_finished_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then nothing is told of it: it is no damage."""
    to = saver(RunDir(tmp_path), keep=1)
    save(to, 1)

    remove = shutil.rmtree

    def cut(path: Path, **options: bool) -> None:
        if path.name == "step-00000001.removed":
            raise PowerCut
        remove(path, **options)

    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(shutil, "rmtree", cut)
        save(to, 2)
    assert steps_of(to.folder) == [2] and incomplete_checkpoints(to.folder) == []
    to.clear_remains()
    assert [path.name for path in to.folder.checkpoints.iterdir()] == ["step-00000002"]


@pytest.mark.parametrize("kind", ["a file", "a link"])
def test_place_of_a_later_checkpoint_that_is_taken_is_told(kind: str, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    save(saver(run), 4)
    if kind == "a file":
        run.checkpoint(8).touch()
    else:
        run.checkpoint(8).symlink_to(tmp_path)
    check_place_for_checkpoints(run, 8)
    with pytest.raises(DalleError, match=f"step-00000008 is {kind}, where a checkpoint"):
        check_place_for_checkpoints(run, 4)
