"""`--exclude`: every command that reads `--data` does as if the samples were not there."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dalle_cli.storage.run_dir import RunDir

EXCLUDED = ["003", "007", "020"]
TINY = ["--set", "runtime.workers=0", "--set", "training.global_batch_size=4"]


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    file = tmp_path / "excluded.txt"
    file.write_text("".join(f"{key}\n" for key in EXCLUDED))
    return file


@pytest.fixture
def without(pairs: Path, tmp_path: Path) -> Path:
    """The pairs without the samples that are listed."""
    folder = shutil.copytree(pairs, tmp_path / "pairs")
    for key in EXCLUDED:
        (folder / f"{key}.png").unlink()
        (folder / f"{key}.txt").unlink()
    return folder


@pytest.fixture
def train(tmp_path: Path, dalle: Callable, fixed_schedules: Callable) -> Callable:
    schedules = fixed_schedules("dvae", 3)

    def train_dvae(name: str, data: Path, *words: object, steps: int = 3, code: int = 0) -> str:
        run = ["--data", data, "--run", tmp_path / name, *words]
        changes = [*TINY, *schedules, "--set", f"training.steps={steps}"]
        ended = dalle("train-dvae", "dvae/tiny", *run, *changes)
        assert ended.code == code, ended.err
        return ended.err

    return train_dvae


def weights_of(run: Path) -> bytes:
    return (RunDir(run).model / "model.safetensors").read_bytes()


def test_training_equals_training_on_the_others(
    pairs: Path, without: Path, listed: Path, tmp_path: Path, train: Callable
) -> None:
    shown = train("listed", pairs, "--exclude", listed)
    assert f"data: {pairs}: folder of pictures with .txt captions; 3 samples excluded" in shown
    train("without", without)
    assert weights_of(tmp_path / "listed") == weights_of(tmp_path / "without")
    data = json.loads(RunDir(tmp_path / "listed").recipe.read_text())["data"]
    assert (data["samples"], data["excluded"]) == (20, 3)


def test_run_knows_what_it_excludes_when_it_is_resumed(
    pairs: Path, listed: Path, tmp_path: Path, train: Callable, dalle: Callable
) -> None:
    train("whole", pairs, "--exclude", listed, steps=5)
    train("stopped", pairs, "--exclude", listed)
    refused = train("stopped", pairs, steps=5, code=2)
    assert f"stopped was begun with `--exclude {listed}`" in refused

    shown = train("stopped", pairs, "--exclude", listed, steps=5)
    assert "samples have changed" not in shown
    assert weights_of(tmp_path / "stopped") == weights_of(tmp_path / "whole")

    shutil.rmtree(RunDir(tmp_path / "whole").checkpoint(5))
    resumed = dalle("resume", tmp_path / "whole")
    assert resumed.code == 0, resumed.err
    assert f"--data {pairs} --exclude {listed} --run" in resumed.err


def test_changed_list_is_told_and_a_new_one_refused(
    pairs: Path, listed: Path, train: Callable
) -> None:
    train("run", pairs, "--exclude", listed)
    listed.write_text("003\nno such\n")
    shown = train("run", pairs, "--exclude", listed, steps=4)
    assert "its samples have changed" in shown
    assert "warning: excluded.txt: 1 of 2 keys are of no sample, such as no such" in shown

    train("other", pairs)
    refused = train("other", pairs, "--exclude", listed, steps=4, code=2)
    assert "other was begun without `--exclude`" in refused


def test_held_out_data_of_their_own_keep_all_samples(
    pairs: Path, listed: Path, tmp_path: Path, train: Callable
) -> None:
    shown = train("run", pairs, "--valid", pairs, "--exclude", listed)
    assert "20 samples and 23 held out" in shown


def test_packing_and_checking_leave_the_same_samples_out(
    pairs: Path, without: Path, listed: Path, tmp_path: Path, dalle: Callable, tree: Callable
) -> None:
    for name, words in (("a", [pairs, "--exclude", listed]), ("b", [without])):
        ended = dalle("data", "pack", *words, "--out", tmp_path / name)
        assert ended.code == 0, ended.err
    assert tree(tmp_path / "a") == tree(tmp_path / "b")

    checked = dalle("data", "check", pairs, "--exclude", listed, "--json")
    facts = json.loads(checked.out)
    assert facts["samples"] == 20 and facts["form"].endswith("; 3 samples excluded")


def test_encoding_leaves_them_out_and_asks_for_a_new_folder_for_another_list(
    pairs: Path, without: Path, listed: Path, dvae_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    def encode(name: str, *words: object) -> object:
        own = ["--dvae", dvae_run, "--out", tmp_path / name, "--copies", 1]
        return dalle("data", "encode", *words, *own)

    assert encode("a", pairs, "--exclude", listed).code == 0
    assert encode("b", without).code == 0
    shards = [(tmp_path / name / "tokens-00000.safetensors").read_bytes() for name in "ab"]
    assert shards[0] == shards[1]

    listed.write_text("003\n")
    ended = encode("a", pairs, "--exclude", listed)
    assert ended.code == 2 and "belongs to another job, with other data" in ended.err


def test_tokens_may_be_excluded_as_well(
    pairs: Path, listed: Path, dvae_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    own = ["--dvae", dvae_run]
    tokens = tmp_path / "tokens"
    assert dalle("data", "encode", pairs, *own, "--out", tokens, "--copies", 1).code == 0
    checked = dalle("data", "check", tokens, "--exclude", listed)
    assert checked.code == 0 and "folder of image tokens; 3 samples excluded" in checked.out

    words = ["--data", tokens, "--exclude", listed, *own, "--run", tmp_path / "run", "--steps", 2]
    ended = dalle("train-transformer", "transformer/tiny", *words, *TINY)
    assert ended.code == 0, ended.err
    damaged = tokens / "tokens-00000.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-100] ^= 1
    damaged.write_bytes(content)
    words[words.index(tmp_path / "run")] = tmp_path / "other"
    ended = dalle("train-transformer", "transformer/tiny", *words, *TINY)
    assert ended.code == 1 and "is damaged" in ended.err


@pytest.mark.thorough
def test_chain_hands_the_list_to_what_reads_pictures(
    pairs: Path, listed: Path, tmp_path: Path, dalle: Callable
) -> None:
    run = tmp_path / "run"
    words = ["train", pairs, "--run", run, "--like", "tiny", "--exclude", listed, "--plan"]
    ended = dalle(*words)
    assert ended.code == 0, ended.err
    commands = [line for line in ended.out.splitlines() if line.startswith("$ dalle ")]
    with_list = [line.split()[2] for line in commands if f"--exclude {listed}" in line]
    reading = [line.split()[2] for line in commands if str(pairs) in line]
    assert with_list == reading and "train-dvae" in reading and "generate" not in reading
