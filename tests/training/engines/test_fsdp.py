"""Groups of processes that shard a model: the losses of one process, the paper's messages."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import children_of, command, losses, run, words_of

from dalle_cli.runtime.processes.ranks import Ranks
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training.checkpoint import check_checkpoint, checkpoints
from dalle_cli.training.engines.shard_places import place_of

SCRIPT = Path(__file__).parent / "sharding.py"
LIMIT = 900  # seconds after which something hangs

Found = Callable[[str], Any]


@pytest.fixture(scope="module")
def found() -> Found:
    """Return what the first of four processes found in a case; all cases run once, together."""
    ended = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert ended.returncode == 0, ended.stderr
    answers = json.loads(ended.stdout.splitlines()[-1])
    return lambda name: answers[0][name]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("shape", [(8, 8), (12, 4), (4, 12), (7, 3), (3, 7), (2, 5)])
def test_shards_of_a_group_make_up_the_whole(shape: tuple[int, int], size: int) -> None:
    whole, again = torch.rand(shape), torch.zeros(shape)
    for rank in range(size):
        place = place_of(shape, Ranks(rank, size), is_matrix=True)
        place.of(again).add_(place.of(whole))
    assert again.equal(whole)


def test_matrices_are_cut_along_the_papers_axes() -> None:
    """Ramesh et al. 2021, appendix E, table 2; `nn.Linear` has the outputs first."""
    d, ranks = 64, Ranks(1, 8)
    dims = [place_of(s, ranks, is_matrix=True).dim for s in ((d, d), (4 * d, d), (d, 4 * d))]
    assert dims == [0, 0, 1]


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("groups", "like", "within"),
    [
        ("2x2", "one", 1e-5),
        ("2x2 full rank", "one", 1e-5),
        ("1x4", "one", 1e-5),
        ("4x1", "one", 1e-5),
        ("2x2 bf16", "one bf16", 1e-4),
        ("2x2 fp16", "ddp fp16", 1e-5),
        ("2x2 16 bits", "one 16 bits", 1e-5),
    ],
)
def test_groups_lose_what_one_process_does(
    groups: str, like: str, within: float, found: Found
) -> None:
    """Over twenty updates, on held-out tokens with the average, and gathered as a whole model."""
    ours, expected = found(groups), found(like)
    assert len(ours["losses"]) == 20 and ours["losses"][-1] < ours["losses"][0] - 0.5
    assert ours["losses"] == pytest.approx(expected["losses"], abs=within)
    assert ours["valid"] == pytest.approx(expected["valid"], abs=within)
    assert ours["whole"] == pytest.approx(ours["valid"], abs=1e-5)
    assert ours.get("scales") == expected.get("scales")


@pytest.mark.distributed
def test_compression_costs_little_loss(found: Found) -> None:
    plain, compressed = found("2x2")["losses"], found("2x2 rank 8")["losses"]
    assert compressed != plain and compressed == pytest.approx(plain, rel=0.03)


@pytest.mark.distributed
@pytest.mark.parametrize("layout", ["2x2", "ddp"])
def test_compression_in_16_bits_costs_next_to_no_loss(layout: str, found: Found) -> None:
    small, plain = (found(f"{layout} rank 8{bits}")["losses"] for bits in (" in 16 bits", ""))
    assert small != plain and small == pytest.approx(plain, rel=1e-4)


@pytest.mark.distributed
def test_bytes_between_groups_follow_the_papers_formula(found: Found) -> None:
    """Ramesh et al. 2021, appendix E, table 2, in fp32; r is the total rank of a group."""
    d, m, r, n_layers = 32, 2, 8, 4
    matrices = 12 * d**2 / m
    factors = ((5 * d * r * m + 4 * d * r) + (d * r * m + 8 * d * r)) / m**2
    sent = found("bytes")
    assert sent["rank 0"] - sent["rank 8"] == 4 * n_layers * (matrices - factors)
    assert sent["rank 8"] - sent["rank 8 in 16 bits"] == 2 * n_layers * factors
    assert factors / matrices == pytest.approx(r * (m + 2) / (2 * d * m))


@pytest.mark.distributed
def test_codes_are_summed_as_the_numbers_that_they_stand_for(found: Found) -> None:
    """As if one process had decoded and added all of them, in the order of ranks."""
    assert found("sums of codes") == [True] * 4


@pytest.mark.distributed
def test_what_was_sent_and_what_is_kept_add_up_to_all_gradients(found: Found) -> None:
    figures = found("error feedback")
    assert figures["missing"] < 1e-5
    assert figures["kept"] > 0.1, "nothing was left unsent, so nothing was tested"


@pytest.mark.distributed
def test_gradient_that_overflows_in_one_process_is_skipped_by_all(found: Found) -> None:
    """As if the batch had been discarded: errors, moments and average have no trace of it."""
    assert found("overflow")["difference"] == 0


@pytest.mark.distributed
def test_processes_know_how_many_there_are_on_each_machine(found: Found) -> None:
    assert found("machines") == [4, 2, "machines have different numbers of processes: 3 at most"]


@pytest.mark.distributed
def test_what_hosts_tell_one_another_takes_no_gpu(found: Found) -> None:
    expected = [10 + 11 + 12 + 13, [], ["x"] * 6, [0, 1, 2, 3], {"step": 7}, 4]
    assert found("host messages") == expected


@pytest.mark.distributed
def test_resumed_groups_go_on_bit_for_bit(found: Found) -> None:
    """With compression and moments, both in 16 bits."""
    went_on, again = found("resumed")["losses"]
    assert went_on == again
    assert found("resumed")["difference"] == 0


@pytest.mark.distributed
@pytest.mark.parametrize(
    "case", ["one to 2x2", "2x2 to one", "ddp to 1x4", "1x4 to 2x2", "2x2 to ddp"]
)
def test_training_goes_on_in_another_layout(case: str, found: Found) -> None:
    went_on, other = found(case)["losses"]
    assert other == pytest.approx(went_on, abs=1e-5)


@pytest.mark.distributed
def test_compressed_training_goes_on_in_groups_of_another_size(found: Found) -> None:
    """The errors go along, though shards have other shapes, and other factors."""
    went_on, other = found("rank 8, 2x2 to 4x1")["losses"]
    assert other == pytest.approx(went_on, rel=0.01)


@pytest.mark.distributed
def test_runs_of_all_engines_resume_in_groups(train: Callable, tmp_path: Path) -> None:
    """One process, ZeRO 3, groups, whole replicas: the losses are those of one process alone."""
    stages = [
        (5, 1, {}),
        (10, 2, {"runtime__zero_stage": 3}),
        (15, 4, {"runtime__shard_group": 2}),
        (20, 2, {}),
    ]
    for steps, count, changes in stages:
        ended = train(
            "transformer",
            tmp_path / "run",
            "--gpus",
            count,
            training__steps=steps,
            runtime__save_every=5,
            **changes,
        )
        assert ended.returncode == 0, ended.stderr
        if count == 4:
            assert "4 processes in 2 groups of 2, sharded inside (fsdp)" in ended.stderr
    assert train("transformer", tmp_path / "one").returncode == 0
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)


PAPER_IN_SMALL = {
    "model.text_len": 16,
    "model.grid_size": 4,
    "model.image_vocab_size": 64,
    "model.n_layers": 4,
    "model.d_model": 32,
    "model.n_heads": 2,
    "model.kernel_size": 3,
    "tokenizer.vocab_size": 320,
    "optimizer.warmup_steps": 5,
    "powersgd.rank": 8,
    "data.validation_share": 0.1,
    "training.steps": 20,
    "training.global_batch_size": 8,
    "runtime.shard_group": 2,
}


@pytest.mark.distributed
def test_the_papers_recipe_runs_in_small(pairs: Path, dvae_run: Path, tmp_path: Path) -> None:
    """Everything of it at once: groups, compression, 16 bits, fp16, plateaus, averages."""
    words = ["--data", pairs, "--dvae", dvae_run, "--run", tmp_path / "run", "--gpus", 4]
    ended = run("train-transformer", "transformer/paper", *words, *words_of(PAPER_IN_SMALL))
    assert ended.returncode == 0, ended.stderr
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]


N_KILLS = 20


@pytest.mark.distributed
@pytest.mark.slow
def test_death_of_one_of_four_at_any_moment_costs_no_whole_checkpoint(
    pairs: Path, dvae_run: Path, fixed_schedules: Callable, tmp_path: Path
) -> None:
    """All end, are told, and the same command goes on from the newest checkpoint, twenty times."""
    folder = RunDir(tmp_path / "run")
    words = ["train-transformer", "transformer/tiny", "--data", pairs, "--dvae", dvae_run]
    words += ["--run", folder.root, "--gpus", 4]
    changes = {"runtime.shard_group": 2, "powersgd.rank": 8, "runtime.save_every": 1}
    changes |= {"runtime.validate_every": 10**6, "runtime.preview_every": 10**6}
    schedules = fixed_schedules("transformer", 1, warmup_steps=1)
    endless = command(*words, *words_of({**changes, "training.steps": 10**6}), *schedules)

    chance, newest = random.Random(0), 0
    for _ in range(N_KILLS):
        with (tmp_path / "told").open("w") as told:
            process = subprocess.Popen(endless, stderr=told)
        deadline = time.monotonic() + LIMIT
        while (saved := checkpoints(folder)[-1:]) == [] or saved[0][0] <= newest:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        time.sleep(chance.uniform(0, 2))
        children = children_of(process.pid)
        rank = chance.randrange(4)
        os.kill(children[rank], signal.SIGKILL)
        assert process.wait(timeout=LIMIT) == 137
        assert not any(Path(f"/proc/{child}").exists() for child in children)

        text = (tmp_path / "told").read_text()
        assert f"process {rank} of 4 was ended by SIGKILL; the others were stopped" in text
        assert not newest or f"resumed after step {newest}" in text
        saved = checkpoints(folder)
        for _, path in saved:
            check_checkpoint(path)
        newest = saved[-1][0]

    last = words_of({**changes, "training.steps": newest + 1})
    ended = run(*words, *last, *schedules)
    assert ended.returncode == 0, ended.stderr
    assert f"resumed after step {newest}" in ended.stderr
