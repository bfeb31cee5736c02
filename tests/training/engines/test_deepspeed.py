"""ZeRO in two processes: the figures of a single process, and state that moves between engines.

Some scripts also run in a group that shards, whose own tests are in `test_fsdp`.
"""

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import LIMIT, answers, command, figures, losses, words_of
from safetensors.torch import load_file
from scale_rules import scales_by_hand

from dalle_cli.training.planning.memory import deepspeed_bf16_bytes

pytestmark = pytest.mark.distributed

HERE = Path(__file__).parent
STAGES = [1, 2, 3]
MICRO, OFFLOAD = {"runtime__micro_batch_size": 3}, {"runtime__offload": "optimizer"}
PAPER = {"optimizer__moments": "paper"}
BF16, FP16 = ({"runtime__precision": precision} for precision in ("bf16", "fp16"))


def checkpoint_of(folder: Path, step: int) -> dict[str, dict[str, torch.Tensor]]:
    files = (folder / "checkpoints" / f"step-{step:08}").glob("*.safetensors")
    return {file.stem: load_file(file) for file in sorted(files)}


def assert_same(one: Path, two: Path, step: int = 20) -> None:
    left, right = checkpoint_of(one, step), checkpoint_of(two, step)
    assert left.keys() == right.keys()
    for group, tensors in left.items():
        assert all(tensor.equal(right[group][name]) for name, tensor in tensors.items()), group


@pytest.fixture(scope="module")
def whole(train: Callable, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A run of 20 steps in one process, or in two that hold whole replicas; each trained once."""
    runs: dict[str, Path] = {}

    def trained(count: int = 1, **changes: object) -> Path:
        name = f"{count}-{changes}"
        if name not in runs:
            runs[name] = tmp_path_factory.mktemp("whole") / "run"
            ended = train("transformer", runs[name], "--gpus", count, **changes)
            assert ended.returncode == 0, ended.stderr
        return runs[name]

    return trained


@pytest.mark.parametrize("stage", STAGES)
def test_zero_loses_what_one_process_does(
    stage: int, train: Callable, whole: Callable, tmp_path: Path
) -> None:
    ended = train("transformer", tmp_path / "run", "--gpus", 2, runtime__zero_stage=stage)
    assert ended.returncode == 0, ended.stderr
    assert f"2 processes with ZeRO {stage} (deepspeed)" in ended.stderr
    assert len(losses(whole())) == 20
    assert losses(tmp_path / "run") == pytest.approx(losses(whole()), abs=1e-5)


@pytest.mark.parametrize("kind", ["prior", "prior-autoregressive", "decoder"])
@pytest.mark.parametrize("stage", [2, 3])
def test_zero_trains_priors_and_decoder_as_one_process_does(
    kind: str, stage: int, train: Callable, tmp_path: Path
) -> None:
    for name, words, zero in (("one", [], 0), ("two", ["--gpus", 2], stage)):
        ended = train(kind, tmp_path / name, *words, runtime__zero_stage=zero)
        assert ended.returncode == 0, ended.stderr
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 20 and two == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_zero_sums_to_the_gradient_of_one_process(
    stage: int, train: Callable, tmp_path: Path
) -> None:
    for name, words, zero in (("one", [], 0), ("two", ["--gpus", 2], stage)):
        ended = train(
            "transformer", tmp_path / name, *words, training__steps=1, runtime__zero_stage=zero
        )
        assert ended.returncode == 0, ended.stderr
    one, two = (checkpoint_of(tmp_path / name, 1)["exp_avg"] for name in ("one", "two"))
    error = math.hypot(*(float((two[name] - gradient).norm()) for name, gradient in one.items()))
    assert error <= 1e-6 * math.hypot(*(float(gradient.norm()) for gradient in one.values()))


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        (1, MICRO),
        (2, MICRO),
        (3, MICRO),
        (3, BF16),
        (2, FP16),
        (3, FP16),
        (2, OFFLOAD),
        (3, OFFLOAD),
        (1, PAPER),
        (3, PAPER),
    ],
)
def test_zero_does_what_whole_replicas_do(
    stage: int, changes: dict[str, object], train: Callable, whole: Callable, tmp_path: Path
) -> None:
    ended = train(
        "transformer", tmp_path / "run", "--gpus", 2, runtime__zero_stage=stage, **changes
    )
    assert ended.returncode == 0, ended.stderr
    plain = {key: value for key, value in changes.items() if key != "runtime__offload"}
    assert losses(tmp_path / "run") == pytest.approx(losses(whole(2, **plain)), abs=1e-5)


@pytest.mark.parametrize(
    ("stage", "precision", "moments"),
    [
        (1, "fp32", "fp32"),
        (2, "fp32", "paper"),
        (3, "fp32", "fp32"),
        (3, "fp16", "paper"),
    ],
)
def test_resumed_zero_equals_an_uninterrupted_one(
    stage: int, precision: str, moments: str, train: Callable, tmp_path: Path
) -> None:
    for name, last_steps in (("whole", [20]), ("parts", [10, 20])):
        for steps in last_steps:
            changes = {
                "runtime__zero_stage": stage,
                "runtime__precision": precision,
                "optimizer__moments": moments,
                "training__steps": steps,
            }
            ended = train("transformer", tmp_path / name, "--gpus", 2, **changes)
            assert ended.returncode == 0, ended.stderr
    assert_same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_step_size_is_halved_when_one_process_would_halve_it(
    stage: int, train: Callable, whole: Callable, tmp_path: Path
) -> None:
    """Also when the run is stopped and resumed in between."""
    plateau = {"optimizer__plateau": "{halvings=2, patience=6, threshold=0.9, smoothing=0.9}"}
    for steps in (12, 20):
        changes = {"runtime__zero_stage": stage, "training__steps": steps, **plateau}
        ended = train("transformer", tmp_path / "run", "--gpus", 2, **changes)
        assert ended.returncode == 0, ended.stderr
    found, expected = (
        figures(folder, "train/lr") for folder in (tmp_path / "run", whole(**plateau))
    )
    assert found == expected and found[-1] == found[2] / 4


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1, 0), (2, 3)),
        ((2, 3), (1, 0)),
        ((2, 0), (2, 2)),
        ((2, 1), (2, 3)),
        ((2, 3), (2, 0)),
        ((2, 2), (4, 3)),
    ],
)
def test_run_goes_on_under_another_engine(
    before: tuple[int, int],
    after: tuple[int, int],
    train: Callable,
    whole: Callable,
    tmp_path: Path,
) -> None:
    for steps, (count, stage) in ((10, before), (20, after)):
        changes = {"runtime__zero_stage": stage, "training__steps": steps}
        ended = train("transformer", tmp_path / "run", "--gpus", count, **changes)
        assert ended.returncode == 0, ended.stderr
    assert losses(tmp_path / "run") == pytest.approx(losses(whole()), abs=1e-5)


@pytest.mark.parametrize(
    ("stage", "offload"), [(1, "optimizer"), (2, "optimizer"), (3, "parameters")]
)
def test_one_process_can_offload(
    stage: int, offload: str, train: Callable, whole: Callable, tmp_path: Path
) -> None:
    ended = train(
        "transformer", tmp_path / "run", runtime__zero_stage=stage, runtime__offload=offload
    )
    assert ended.returncode == 0, ended.stderr
    assert losses(tmp_path / "run") == pytest.approx(losses(whole()), abs=1e-5)


@pytest.mark.parametrize("engine", [0, *STAGES, "groups"])
def test_overflow_on_one_rank_skips_the_update_on_all(engine: int | str) -> None:
    """As if that batch had never been, but for the scales, which follow the rules everywhere."""
    n_updates, overflows = 8, {1: (2, 1), 2: (2, 1), 5: (0, 3)}  # update: branch and rank
    events = [
        f"{update}:{rank}:{branch}"
        for update, (branch, rank) in {1: (2, 1), 2: (2, 1), 5: (3, 0)}.items()
    ]
    found = answers(HERE / "overflowing.py", 2, engine, n_updates, *events)
    assert found[0] == found[1]
    assert found[0]["applied"] == [update not in overflows for update in range(n_updates)]
    clean, third, fourth = (
        [u in updates for u in range(n_updates)] for updates in ((), (1, 2), (5,))
    )
    expected = [
        scales_by_hand(2.0**13, pattern, n_replicas=1) for pattern in (clean, clean, third, fourth)
    ]
    for scales, by_hand in zip(found[0]["scales"], zip(*expected, strict=True), strict=True):
        assert scales == pytest.approx(by_hand, rel=2**-22)


@pytest.mark.parametrize("engine", [*STAGES, "groups"])
def test_overflow_leaves_what_whole_replicas_have(engine: int | str) -> None:
    replicas, dealt_out = (
        answers(HERE / "overflowing.py", 2, each, 6, "1:0:1", "3:1:2")[0] for each in (0, engine)
    )
    assert dealt_out["applied"] == replicas["applied"] == [True, False, True, False, True, True]
    for name, weight in replicas["weights"].items():
        torch.testing.assert_close(
            torch.tensor(dealt_out["weights"][name]), torch.tensor(weight), rtol=0, atol=1e-6
        )


def test_run_of_zero_3_is_used_without_deepspeed(train: Callable, tmp_path: Path) -> None:
    ended = train("transformer", tmp_path / "run", "--gpus", 2, runtime__zero_stage=3)
    assert ended.returncode == 0, ended.stderr
    hidden = (
        "import sys; sys.modules['deepspeed'] = None; from dalle_cli.cli.main import main; main()"
    )
    for words in (
        ["export", "--out", tmp_path / "export"],
        ["generate", "a red ring", "-n", 1, "--out", tmp_path / "out"],
    ):
        line = [sys.executable, "-c", hidden, words[0], tmp_path / "run", *words[1:]]
        subprocess.run(list(map(str, line)), check=True, capture_output=True, timeout=LIMIT)
    exported = load_file(next((tmp_path / "export").rglob("model.safetensors")))
    averages = checkpoint_of(tmp_path / "run", 20)["ema"]
    assert any(
        set(averages) == set(load_file(f)) for f in (tmp_path / "export").rglob("model.safetensors")
    ), exported


@pytest.mark.parametrize("stage", [1, 3])
def test_request_to_stop_zero_saves_once(
    stage: int, pairs: Path, dvae_run: Path, tmp_path: Path
) -> None:
    changes = words_of(
        {"training.steps": 10**6, "runtime.save_every": 5, "runtime.zero_stage": stage}
    )
    words = [
        "train-transformer",
        "transformer/tiny",
        "--data",
        pairs,
        "--dvae",
        dvae_run,
        "--run",
        tmp_path / "run",
    ]
    with subprocess.Popen(
        command(*words, "--gpus", 2, *changes), stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + LIMIT
        while not list((tmp_path / "run" / "checkpoints").glob("step-*")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 143 and "error: stopped by SIGTERM after step" in told
    step = int(told.split("after step ")[1].split()[0].rstrip(";,."))
    assert checkpoint_of(tmp_path / "run", step).keys() == {
        "parameters",
        "exp_avg",
        "exp_avg_sq",
        "ema",
    }


def test_deepspeed_file_tunes_and_is_recorded(
    train: Callable, whole: Callable, tmp_path: Path
) -> None:
    file = tmp_path / "zero.json"
    zero = {
        "stage": 2,
        "reduce_bucket_size": 5000,
        "overlap_comm": False,
        "allgather_bucket_size": "auto",
    }
    given = {"train_batch_size": "auto", "zero_optimization": zero, "bf16": {"enabled": "auto"}}
    file.write_text(json.dumps(given | {"gradient_clipping": 4.0}))
    ended = train("transformer", tmp_path / "run", "--gpus", 2, "--deepspeed", file)
    assert ended.returncode == 0, ended.stderr
    recorded = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert (
        recorded["resolved"]["engine"] == "deepspeed"
        and recorded["recipe"]["runtime"]["zero_stage"] == 2
    )
    assert recorded["resolved"]["deepspeed"]["zero_optimization"]["reduce_bucket_size"] == 5000
    assert losses(tmp_path / "run") == pytest.approx(losses(whole()), abs=1e-5)


def test_deepspeeds_own_launcher_starts_a_run(
    pairs: Path, dvae_run: Path, whole: Callable, fixed_schedules: Callable, tmp_path: Path
) -> None:
    launcher = [
        str(Path(sys.executable).with_name("deepspeed")),
        "--num_accelerators",
        "2",
        "--module",
        "dalle_cli",
    ]
    words = [
        "train-transformer",
        "transformer/tiny",
        "--data",
        pairs,
        "--dvae",
        dvae_run,
        "--run",
        tmp_path / "run",
        *fixed_schedules("transformer", 1, warmup_steps=1),
    ]
    line = [*launcher, *map(str, words), *words_of({"runtime.zero_stage": 1})]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert ended.returncode == 0, ended.stderr
    assert losses(tmp_path / "run") == pytest.approx(losses(whole()), abs=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_process_that_fails_while_validating_waits_for_no_other(stage: int) -> None:
    assert answers(HERE / "failing.py", 2, stage, limit=60) == ["", "'in the second process'"]


def test_estimate_for_bf16_is_deepspeeds() -> None:
    script = """
import json
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as estimate
cases = [(12_292_840_960, 65_028_096, n) for n in (8, 64, 1024)] + [(77_393, 4_224, 2)]
print(json.dumps([(case, estimate(*case, 1, cpu_offload=False)[1]) for case in cases]))
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=LIMIT, check=True
    )
    for case, expected in json.loads(ended.stdout.splitlines()[-1]):
        assert deepspeed_bf16_bytes(*case) == expected


@pytest.mark.parametrize("engine", [0, *STAGES, "groups"])
def test_memory_estimated_is_within_a_tenth_of_the_peak_measured(engine: int | str) -> None:
    for measured in answers(HERE / "measuring.py", 2, engine):
        assert measured["estimated"] == pytest.approx(measured["peak"], rel=0.1)


@pytest.mark.slow
def test_zero_3_does_the_same_fifty_times(tmp_path: Path) -> None:
    first, second = answers(HERE / "repeating.py", 2, 50, limit=900)
    assert len(first) == len(second) == 50
    assert all(weights == first[0] for weights in first + second)
