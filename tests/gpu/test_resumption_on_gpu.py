"""Runs on the GPU that go on after an end, bit for bit, where its kernels give the same bits."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trained_models import KINDS

from dalle_cli.config import training_command

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("reproducible")]

STEPS, STOP = 8, 5


def checkpoint(run: Path, step: int) -> dict[str, torch.Tensor]:
    files = (run / "checkpoints" / f"step-{step:08}").glob("*.safetensors")
    return {
        f"{file.stem}.{name}": tensor
        for file in sorted(files)
        for name, tensor in load_file(file).items()
    }


@pytest.mark.filterwarnings("default")  # of kernels that have no reproducible sibling
@pytest.mark.parametrize(
    ("kind", "precision"),
    [*((kind, "bf16") for kind in KINDS), ("transformer", "fp16")],
)
def test_resumed_run_is_the_uninterrupted_one(
    kind: str,
    precision: str,
    device: torch.device,
    pairs: Path,
    inputs_of: Callable,
    dalle: Callable,
    settings: Callable,
    fixed_schedules: Callable,
    tmp_path: Path,
    measured: Callable,
) -> None:
    def train(run: Path, steps: int) -> None:
        words = ["--data", pairs, "--run", run, *inputs_of(kind), *fixed_schedules(kind, STOP)]
        words += settings(training__steps=steps, runtime__save_every=100, runtime__workers=0)
        words += ["--device", device.type, "--precision", precision]
        ended = dalle(training_command(kind), f"{kind}/tiny", *words)
        assert ended.code == 0, ended.err

    for name, stops in (("whole", [STEPS]), ("parts", [STOP, STEPS])):
        for steps in stops:
            train(tmp_path / name, steps)
    whole, parts = (checkpoint(tmp_path / name, STEPS) for name in ("whole", "parts"))
    assert whole and whole.keys() == parts.keys()
    n_other = sum(not tensor.equal(parts[name]) for name, tensor in whole.items())
    measured("tensors that differ", n_other, most=0)
