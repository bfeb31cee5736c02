"""Several processes training as one: the same figures as of one process alone, and a common end."""

import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import LIMIT, children_of, command, losses, run, words_of
from safetensors.torch import load_file

from dalle_cli.runtime.processes.launcher import free_port
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training.checkpoint import check_checkpoint, checkpoints

pytestmark = pytest.mark.distributed
KINDS = ["dvae", "transformer", "clip", "prior", "prior-autoregressive", "decoder"]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_lose_what_one_does(kind: str, train: Callable, tmp_path: Path) -> None:
    for name, words in (("one", []), ("two", ["--gpus", 2])):
        ended = train(kind, tmp_path / name, *words)
        assert ended.returncode == 0, ended.stderr
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 20 and two == pytest.approx(one, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_sum_to_the_gradient_of_one(
    kind: str, train: Callable, tmp_path: Path
) -> None:
    first_moments = []
    for name, count in (("one", 1), ("two", 2)):
        ended = train(kind, tmp_path / name, "--gpus", count, training__steps=1)
        assert ended.returncode == 0, ended.stderr
        first_moments.append(
            load_file(tmp_path / name / "checkpoints" / "step-00000001" / "exp_avg.safetensors")
        )
    one, two = first_moments  # after one update, the gradients times a constant
    errors = [float((two[name] - gradient).norm()) for name, gradient in one.items()]
    assert math.hypot(*errors) <= 1e-6 * math.hypot(
        *(float(gradient.norm()) for gradient in one.values())
    )


def test_micro_batches_in_two_processes_lose_what_one_batch_does(
    train: Callable, tmp_path: Path
) -> None:
    assert train("transformer", tmp_path / "one").returncode == 0
    ended = train("transformer", tmp_path / "two", "--gpus", 2, runtime__micro_batch_size=3)
    assert ended.returncode == 0, ended.stderr
    assert "20 steps of 8 = 3 x 2 micro-batches x 2 processes" in ended.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)


def test_resumed_run_of_two_equals_an_uninterrupted_one(train: Callable, tmp_path: Path) -> None:
    assert train("transformer", tmp_path / "whole", "--gpus", 2).returncode == 0
    for steps in (10, 20):
        ended = train("transformer", tmp_path / "parts", "--gpus", 2, training__steps=steps)
        assert ended.returncode == 0, ended.stderr
    checkpoints = [tmp_path / name / "checkpoints" / "step-00000020" for name in ("whole", "parts")]
    for file in sorted(checkpoints[0].glob("*.safetensors")):
        whole, parts = load_file(file), load_file(checkpoints[1] / file.name)
        assert all(whole[name].equal(parts[name]) for name in whole), file.name


@pytest.mark.parametrize("counts", [(1, 2), (2, 1)])
def test_run_goes_on_in_another_number_of_processes(
    counts: tuple[int, int], train: Callable, tmp_path: Path
) -> None:
    assert train("transformer", tmp_path / "whole").returncode == 0
    for steps, count in zip((10, 20), counts, strict=True):
        ended = train("transformer", tmp_path / "parts", "--gpus", count, training__steps=steps)
        assert ended.returncode == 0, ended.stderr
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("dvae", {"runtime__precision": "fp16"}),
        ("transformer", {"runtime__precision": "fp16"}),
        ("transformer", {"powersgd__rank": 4}),
        ("transformer", {"runtime__precision": "fp16", "powersgd__rank": 4}),
    ],
)
def test_resumed_run_with_scales_or_compression_equals_an_uninterrupted_one(
    kind: str, changes: dict[str, object], train: Callable, tmp_path: Path
) -> None:
    ended = train(kind, tmp_path / "whole", "--gpus", 2, **changes)
    assert ended.returncode == 0, ended.stderr
    for steps in (10, 20):
        ended = train(kind, tmp_path / "parts", "--gpus", 2, training__steps=steps, **changes)
        assert ended.returncode == 0, ended.stderr
    checkpoints = [tmp_path / name / "checkpoints" / "step-00000020" for name in ("whole", "parts")]
    groups = {file.stem for file in checkpoints[0].glob("*.safetensors")}
    assert ("grad_scales" in groups, "compression_errors" in groups) == (
        "runtime__precision" in changes, "powersgd__rank" in changes,
    )  # fmt: skip
    for file in sorted(checkpoints[0].glob("*.safetensors")):
        whole, parts = load_file(file), load_file(checkpoints[1] / file.name)
        assert all(whole[name].equal(parts[name]) for name in whole), file.name


def test_compressed_gradients_train_nearly_as_well(train: Callable, tmp_path: Path) -> None:
    for name, changes in (("plain", {}), ("compressed", {"powersgd__rank": 8})):
        ended = train("transformer", tmp_path / name, "--gpus", 2, **changes)
        assert ended.returncode == 0, ended.stderr
    plain, compressed = losses(tmp_path / "plain"), losses(tmp_path / "compressed")
    assert compressed != plain and compressed[-1] == pytest.approx(plain[-1], rel=0.03)


def test_only_one_process_speaks(train: Callable, tmp_path: Path) -> None:
    ended = train("dvae", tmp_path / "run", "--gpus", 2, "--json")
    assert json.loads(ended.stdout) == {"run": str(tmp_path / "run")}
    assert ended.stderr.count("step 20/20  loss") == 1


def test_batch_that_cannot_be_dealt_out_is_refused(train: Callable, tmp_path: Path) -> None:
    ended = train("dvae", tmp_path / "run", "--gpus", 2, training__global_batch_size=7)
    assert ended.returncode == 2 and not (tmp_path / "run").exists()
    assert ended.stderr.count("error: a batch of 7 can't be divided evenly among 2 processes") == 1
    assert ended.stderr.count("error:") == 1


def test_bad_samples_of_all_processes_are_told_once(make_pairs: Callable, tmp_path: Path) -> None:
    data = make_pairs(tmp_path / "data", 12)
    bad = sorted(data.glob("*.png"))[:3]
    for picture in bad:
        picture.write_bytes(b"")
    words = ["train-dvae", "dvae/tiny", "--data", data, "--run", tmp_path / "run", "--gpus", 2]
    ended = run(*words, *words_of({"data.max_bad_share": 0.9}))
    assert ended.returncode == 0, ended.stderr
    assert [ended.stderr.count(f"skipped {picture.stem}:") for picture in bad] == [1, 1, 1]
    stopped = run(
        *words[:5], tmp_path / "stopped", *words[6:], *words_of({"data.max_bad_share": 0.1})
    )
    assert stopped.returncode == 1 and "samples are bad" in stopped.stderr


@pytest.fixture
def endless(pairs: Path, fixed_schedules: Callable, tmp_path: Path) -> subprocess.Popen:
    """Two running processes that train for longer than any test waits, and save at every step."""
    words = ["train-dvae", "dvae/tiny", "--data", pairs, "--run", tmp_path / "run", "--gpus", 2]
    changes = words_of({"training.steps": 10**6, "runtime.save_every": 1})
    changes += fixed_schedules("dvae", 1, warmup_steps=1)
    with subprocess.Popen(command(*words, *changes), stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + LIMIT
        while not checkpoints(RunDir(tmp_path / "run")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        yield process
        process.kill()


@pytest.mark.parametrize("rank", [0, 1])
def test_death_of_one_process_ends_the_others_and_is_told(
    rank: int, endless: subprocess.Popen, tmp_path: Path
) -> None:
    children = children_of(endless.pid)
    os.kill(children[rank], signal.SIGKILL)
    _, told = endless.communicate(timeout=60)
    assert endless.returncode == 137 and f"process {rank} of 2 was ended by SIGKILL" in told
    assert not any(Path(f"/proc/{child}").exists() for child in children)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("target", ["parent", 0, 1])
def test_request_to_stop_any_process_saves_once(
    target: object, number: signal.Signals, endless: subprocess.Popen, tmp_path: Path
) -> None:
    pid = endless.pid if target == "parent" else children_of(endless.pid)[target]
    os.kill(pid, number)
    _, told = endless.communicate(timeout=60)
    assert (
        endless.returncode == 128 + number and f"error: stopped by {number.name} after step" in told
    )
    assert "exit code" not in told
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert (newest / "manifest.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_no_moment_of_death_leaves_half_a_checkpoint(
    seed: int, endless: subprocess.Popen, train: Callable, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    time.sleep(chance.uniform(0, 1))
    os.kill(chance.choice(children_of(endless.pid)), signal.SIGKILL)
    endless.communicate(timeout=60)
    assert endless.returncode == 137
    saved = checkpoints(RunDir(tmp_path / "run"))
    for _, path in saved:
        check_checkpoint(path)
    steps = saved[-1][0] + 1
    ended = train(
        "dvae", tmp_path / "run", "--gpus", 2, training__steps=steps, runtime__save_every=1
    )
    assert ended.returncode == 0, ended.stderr
    assert f"resumed after step {saved[-1][0]}" in ended.stderr


def test_data_worker_that_one_process_loses_ends_all_after_a_save(
    pairs: Path, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "run")
    words = ["train-dvae", "dvae/tiny", "--data", pairs, "--run", run.root, "--gpus", 2]
    rare = dict.fromkeys(("save_every", "validate_every", "preview_every"), 10**6)
    changes = {f"runtime.{key}": every for key, every in rare.items()}
    changes |= {"training.steps": 10**6, "runtime.workers": 1}
    process = subprocess.Popen(
        command(*words, *words_of(changes)), stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + LIMIT
        while not run.metrics.exists() or run.metrics.read_text().count("\n") < 3:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        [worker] = children_of(children_of(process.pid)[1])
        os.kill(worker, signal.SIGKILL)
        _, told = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    [(step, path)] = checkpoints(run)
    check_checkpoint(path)
    assert process.returncode == 1 and f"saved after step {step}" in told
    assert "process 1: error: a data worker was ended by SIGKILL\n" in told
    assert "Traceback" not in told


ALONE = """
import os, torch
from dalle_cli.runtime.processes import process_group
process_group.UNTOLD_WAIT = 0.1
with process_group.init_process_group(torch.device("cpu")):
    pass
"""


def test_process_that_waits_for_others_says_so_and_can_be_stopped() -> None:
    port = free_port()
    place = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-c", ALONE], env=os.environ | place, stderr=subprocess.PIPE, text=True
    )
    try:
        line = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    assert line == (
        f"process 0 is waiting for process 1 of 2 at 127.0.0.1:{port}, for 60 minutes at most; "
        "unset RANK and WORLD_SIZE if it is to run alone\n"
    )
    assert (process.returncode, rest) == (130, "stopped by SIGINT\n")


def test_port_that_something_else_listens_on_is_a_known_failure() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        ranks = {"RANK": "0", "WORLD_SIZE": "2"}
        words = ["train-dvae", "dvae/tiny", "--data", "absent", "--run", "absent"]
        ended = subprocess.run(
            command(*words),
            env=os.environ | place | ranks,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "error: process 0 of 2 can't reach the others: " in ended.stderr


LOSING = """
import os, sys
from dalle_cli.cli.main import main
from dalle_cli.training.tasks.dvae import DiscreteVAETask

compute = DiscreteVAETask.loss

def loss(self, batch, step):
    value, metrics = compute(self, batch, step)
    value = value * float("nan" if step == 2 and os.environ["RANK"] == "1" else 1)
    return value, metrics | {"train/loss": value.detach()}

DiscreteVAETask.loss = loss
main()
"""


def test_loss_of_one_process_that_is_not_finite_ends_all_before_the_update(
    pairs: Path, tmp_path: Path
) -> None:
    run, port = RunDir(tmp_path / "run"), str(free_port())
    words = ["train-dvae", "dvae/tiny", "--data", pairs, "--run", run.root]
    words += words_of({"runtime.save_every": 1})
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LOSING, *map(str, words)],
            env=os.environ | place | {"RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        told = [process.communicate(timeout=LIMIT)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [1, 1]
    assert "error: the loss is not finite at step 3, of the samples" in told[0]
    assert [step for step, _ in checkpoints(run)] == [1, 2]
