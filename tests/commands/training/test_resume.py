"""`dalle resume`: nothing typed again, runs made longer, and what is no run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dalle_cli.storage.integrity.checksums import checksummed_json
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training.checkpoint import checkpoints

KINDS = ["dvae", "transformer", "clip", "prior", "decoder"]
OF_THE_MACHINE = ("_per_second", "mfu", "peak_memory_gib", "train/seconds")


@pytest.fixture
def train(pairs: Path, dvae_run: Path, dalle: Callable) -> Callable:
    """Train a tiny recipe on the shared pairs."""

    def train_kind(kind: str, run: Path, *words: object):
        own = ["--dvae", dvae_run] if kind == "transformer" else []
        shared = ["--data", pairs, "--run", run, "--set", "runtime.report_every=1"]
        return dalle(f"train-{kind}", f"{kind}/tiny", *shared, *own, *words)

    return train_kind


@pytest.fixture
def copy_run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], RunDir]:
    """Copy the finished run of a kind, and move its last checkpoints away."""

    def copy(kind: str, *, cut_after: int | None = None) -> RunDir:
        run = RunDir(shutil.copytree(request.getfixturevalue(f"{kind}_run"), tmp_path / kind))
        for step, path in checkpoints(run):
            if cut_after is not None and step > cut_after:
                shutil.rmtree(path)
        return run

    return copy


def record_of(run: RunDir) -> dict[str, Any]:
    return json.loads(run.recipe.read_text())


def figures_of(run: RunDir) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if not name.endswith(OF_THE_MACHINE)}
        for line in lines
    ]


def weights_of(run: RunDir) -> bytes:
    return (run.model / "model.safetensors").read_bytes()


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_resumed_run_equals_uninterrupted_run(
    kind: str, request: pytest.FixtureRequest, copy_run: Callable, dalle: Callable
) -> None:
    whole, run = RunDir(request.getfixturevalue(f"{kind}_run")), copy_run(kind, cut_after=6)
    ended = dalle("resume", run.root)
    assert ended.code == 0 and "resumed after step 6" in ended.err and ended.out == f"{run.root}\n"
    assert f"$ dalle train-{kind} {run.recipe} --data " in ended.err
    assert weights_of(run) == weights_of(whole) and figures_of(run) == figures_of(whole)
    assert record_of(run) == record_of(whole)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_command_that_a_run_stands_for_does_the_same(
    kind: str, request: pytest.FixtureRequest, copy_run: Callable, dalle: Callable
) -> None:
    whole, run = RunDir(request.getfixturevalue(f"{kind}_run")), copy_run(kind, cut_after=6)
    shown = dalle("resume", run.root).err.splitlines()[0]
    shutil.rmtree(run.checkpoint(9))
    shutil.rmtree(run.checkpoint(11))
    ended = dalle(*shown.removeprefix("$ dalle ").split())
    assert ended.code == 0 and "resumed after step 6" in ended.err
    assert weights_of(run) == weights_of(whole)


def test_record_states_the_command_with_absolute_paths(
    transformer_run: Path, dvae_run: Path, pairs: Path
) -> None:
    command = record_of(RunDir(transformer_run))["command"]
    assert command["name"] == "train-transformer" and command["recipe"] == "transformer/tiny"
    assert "training.steps=11" in command["overrides"] and command["steps"] is None
    assert command["data"] == [str(pairs)] and command["dvae"] == str(dvae_run)
    assert command["valid"] is None and command["tokenizer"] is None


def test_paths_of_the_command_are_absolute_wherever_it_was_typed(
    tmp_path: Path, pairs: Path, train: Callable, dalle: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pairs.parent)
    words = ["train-dvae", "dvae/tiny", "--data", pairs.name, "--valid", pairs.name]
    assert dalle(*words, "--run", tmp_path / "run", "--steps", 2).code == 0
    command = record_of(RunDir(tmp_path / "run"))["command"]
    assert (command["data"], command["valid"]) == ([str(pairs)], str(pairs))
    assert command["steps"] == 2

    monkeypatch.chdir(tmp_path)
    assert dalle("resume", "run", "--extend", 1).code == 0


def test_transformer_needs_nothing_but_its_run_and_its_data(
    tmp_path: Path, pairs: Path, copy_run: Callable, dalle: Callable
) -> None:
    run = copy_run("transformer", cut_after=9)
    record = record_of(run)
    record["command"] |= {"dvae": str(tmp_path / "gone"), "data": [str(tmp_path / "gone")]}
    run.recipe.write_bytes(checksummed_json(record))

    assert "gone" in dalle("resume", run.root).err
    ended = dalle("resume", run.root, "--data", pairs)
    assert ended.code == 0 and "learnt a vocabulary" not in ended.err
    assert record_of(run)["command"]["data"] == [str(pairs)]


def test_finished_run_is_told_how_to_train_longer(
    copy_run: Callable, dalle: Callable, tree: Callable
) -> None:
    run = copy_run("dvae")
    before = tree(run.root)
    ended = dalle("resume", run.root)
    assert ended.code == 0 and "is already at step 11 of 11: nothing to do" in ended.err
    assert f"hint: `dalle resume {run.root} --extend N` trains N more" in ended.err
    assert tree(run.root) == before


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["dvae", "transformer"])
def test_extended_run_equals_a_longer_one_whose_schedules_end_early(
    kind: str, tmp_path: Path, train: Callable, dalle: Callable, fixed_schedules: Callable
) -> None:
    whole, run = RunDir(tmp_path / "whole"), RunDir(tmp_path / "run")
    longer = [*fixed_schedules(kind, 8), "--set", "training.steps=16"]
    longer += ["--set", "loss.kl_weight.steps=4"] if kind == "dvae" else []
    assert train(kind, whole.root, *longer).code == 0
    assert train(kind, run.root).code == 0

    ended = dalle("resume", run.root, "--extend", 8)
    assert ended.code == 0 and "from step 8 to 16: all schedules hold their last" in ended.err
    assert weights_of(run) == weights_of(whole)
    assert [f for f in figures_of(run) if "train/loss" in f] == [
        f for f in figures_of(whole) if "train/loss" in f
    ]


@pytest.mark.thorough
def test_interrupted_extension_is_resumed_and_extended_again(
    tmp_path: Path, train: Callable, dalle: Callable
) -> None:
    run = RunDir(tmp_path / "run")
    assert train("dvae", run.root).code == 0
    assert dalle("resume", run.root, "--extend", 8, "--restart-lr").code == 0
    rates = [f["train/lr"] for f in figures_of(run) if "train/lr" in f]
    assert rates[8:] == rates[:8]

    before = weights_of(run)
    shutil.rmtree(run.checkpoint(16))
    refused = dalle("resume", run.root, "--extend", 8)
    assert refused.code == 2 and "is at step 12 of 16: only a finished run" in refused.err
    assert f"`dalle resume {run.root}` resumes it" in refused.err
    assert dalle("resume", run.root).code == 0 and weights_of(run) == before

    again = dalle("resume", run.root, "--extend", 4, "--restart-lr")
    assert again.code == 0 and "except the learning rate's, which runs once more" in again.err
    restarts = record_of(run)["recipe"]["optimizer"]["restarts"]
    assert restarts == [{"after": 8, "steps": 8}, {"after": 16, "steps": 4}]

    retyped = train("dvae", run.root)
    assert retyped.code == 2 and "is a run of 20 steps" in retyped.err


def test_inputs_that_the_run_has_no_copy_of_are_given_again(
    copy_run: Callable, tmp_path: Path, dalle: Callable
) -> None:
    run, merges, captions = copy_run("transformer", cut_after=0), tmp_path / "m", tmp_path / "c.txt"
    run.tokenizer.rename(merges)
    captions.write_text("a red circle\n")
    record = record_of(run)
    record["command"] |= {"tokenizer": str(merges), "preview_captions": str(captions)}
    run.recipe.write_bytes(checksummed_json(record))

    ended = dalle("resume", run.root)
    assert ended.code == 0 and f"--tokenizer {merges} --preview-captions {captions}" in ended.err
    assert run.tokenizer.read_bytes() == merges.read_bytes()


def test_restart_without_an_extension_is_refused(dvae_run: Path, dalle: Callable) -> None:
    ended = dalle("resume", dvae_run, "--restart-lr")
    assert ended.code == 2 and "`--restart-lr` needs `--extend N`" in ended.err


def test_what_is_no_run_is_told_with_what_resumes_it(
    dvae_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "job.json").write_text('{"schema": 2, "command": "demo"}')
    ended = dalle("resume", tmp_path / "thesis")
    assert ended.code == 2 and "is not a run of a training command" in ended.err
    assert "run the same `dalle demo` command again" in ended.err
    assert "no such run" in dalle("resume", tmp_path / "absent").err
    assert "is not a run of a training command" in dalle("resume", tmp_path).err

    assert dalle("export", dvae_run, "--out", tmp_path / "export").code == 0
    export = dalle("resume", tmp_path / "export")
    assert export.code == 2 and f"`--init-from {tmp_path / 'export'}` trains from it" in export.err


@pytest.mark.parametrize("command", [{}, {"data": []}, {"data": None}, []])
def test_damaged_command_is_a_known_failure(
    command: object, own_dvae_run: Path, dalle: Callable, tree: Callable
) -> None:
    run = RunDir(own_dvae_run)
    run.recipe.write_bytes(checksummed_json(record_of(run) | {"command": command}))
    before = tree(run.root)
    ended = dalle("resume", run.root)
    assert ended.code == 1 and "recipe.json is damaged" in ended.err
    assert tree(run.root) == before


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["recipe.json", ""])
def test_a_run_serves_as_a_recipe(
    name: str, dvae_run: Path, tmp_path: Path, pairs: Path, dalle: Callable
) -> None:
    recipe = dvae_run / name
    assert dalle("recipes", "check", recipe).code == 0
    assert dalle("info", dvae_run / "recipe.json").code == 0
    words = ["train-dvae", recipe, "--data", pairs, "--run", tmp_path / "run", "--steps", 2]
    assert dalle(*words).code == 0
    assert record_of(RunDir(tmp_path / "run"))["command"]["recipe"] == str(recipe)

    (tmp_path / "mine.toml").write_text(dalle("recipes", "show", recipe).out)
    mine = dalle("recipes", "check", tmp_path / "mine.toml", "--json").out
    assert json.loads(mine) == json.loads(dalle("recipes", "check", recipe, "--json").out)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"recipe": 1}', "\0"])
def test_a_file_without_a_recorded_recipe_is_refused(
    content: str, tmp_path: Path, dalle: Callable
) -> None:
    (tmp_path / "recipe.json").write_text(content)
    ended = dalle("recipes", "check", tmp_path / "recipe.json")
    assert ended.code == 2 and "holds no recipe" in ended.err
