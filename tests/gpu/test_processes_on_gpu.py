"""Several processes on GPUs: two share one through gloo; on two GPUs, all engines through NCCL."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import answers, losses

pytestmark = pytest.mark.gpu

SCRIPT = Path(__file__).parent / "two_processes.py"
WITHIN = {"fp32": 1e-5, "bf16": 0.01, "fp16": 0.01, "compressed": 1e-4}
LAYOUTS: dict[str, dict[str, object]] = {
    "replicas": {},
    "replicas in bf16": {"runtime__precision": "bf16"},
    "replicas, compressed": {"powersgd__rank": 4096},  # as large as the matrices: nothing is lost
    "ZeRO 1": {"runtime__zero_stage": 1},
    "ZeRO 2": {"runtime__zero_stage": 2},
    "ZeRO 3": {"runtime__zero_stage": 3},
    "one group of two": {"runtime__shard_group": 2},
    "two groups of one, compressed": {"runtime__shard_group": 1, "powersgd__rank": 4096},
}
OFFLOADED = {"runtime__offload": "optimizer"}


@pytest.fixture(scope="module")
def shared(device: torch.device) -> dict[str, Any]:
    """What two processes found that share the device."""
    first, second = answers(SCRIPT, 2, device.type, limit=240)
    for case, (two, _) in first["losses"].items():
        assert second["losses"][case][0] == two, f"the processes have come apart: {case}"
    return first


@pytest.mark.parametrize("case", WITHIN)
def test_two_processes_on_one_gpu_lose_what_one_does(
    case: str, shared: dict[str, Any], measured: Callable
) -> None:
    two, one = shared["losses"][case]
    assert two[-1] < two[0]
    worst = max(abs(a - b) for a, b in zip(two, one, strict=True))
    measured("losses", worst, most=WITHIN[case])


def test_two_processes_on_one_gpu_gather(shared: dict[str, Any]) -> None:
    assert shared["gathered"] == {
        "tensors": [0, 0, 1, 1],
        "objects": [{"rank": 0}, {"rank": 1}],
        "sent by the first": "from 0",
    }


@pytest.fixture(scope="module")
def alone(
    device: torch.device, train: Callable, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., list[float]]:
    """The losses of one process, whose run is trained once in each precision."""
    known: dict[str, list[float]] = {}

    def of_one(precision: str) -> list[float]:
        if precision not in known:
            run = tmp_path_factory.mktemp("alone") / "run"
            words = ("--device", device.type)
            ended = train("transformer", run, *words, runtime__precision=precision)
            assert ended.returncode == 0, ended.stderr
            known[precision] = losses(run)
        return known[precision]

    return of_one


def skip_without_deepspeed(changes: dict[str, object]) -> None:
    if "runtime__zero_stage" in changes and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_gpus_lose_what_one_does(
    layout: str,
    device: torch.device,
    train: Callable,
    alone: Callable,
    tmp_path: Path,
    measured: Callable,
) -> None:
    changes = {"runtime__precision": "fp32", **LAYOUTS[layout]}
    skip_without_deepspeed(changes)
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU here, and NCCL wants one for each process")
    words = ("--gpus", 2, "--device", device.type)
    ended = train("transformer", tmp_path / "run", *words, **changes)
    assert ended.returncode == 0, ended.stderr

    pairs = zip(losses(tmp_path / "run"), alone(changes["runtime__precision"]), strict=True)
    within = 1e-4 if changes["runtime__precision"] == "fp32" else 0.01
    measured("losses", max(abs(a - b) for a, b in pairs), most=within)


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_with_moments_in_the_hosts_memory_needs_one_gpu(
    stage: int,
    device: torch.device,
    train: Callable,
    alone: Callable,
    tmp_path: Path,
    measured: Callable,
) -> None:
    changes = {"runtime__zero_stage": stage, "runtime__precision": "fp32", **OFFLOADED}
    skip_without_deepspeed(changes)
    ended = train("transformer", tmp_path / "run", "--device", device.type, **changes)
    assert ended.returncode == 0, ended.stderr
    pairs = zip(losses(tmp_path / "run"), alone("fp32"), strict=True)
    measured("losses", max(abs(a - b) for a, b in pairs), most=1e-4)
