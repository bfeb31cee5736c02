"""Which updates end a run, which fp16 bears, and what is told of the cause."""

import math
from pathlib import Path

import pytest
import torch

from dalle_cli.runtime.distributed import single_process
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training.checkpoint import Saver
from dalle_cli.training.engines.engine import EngineState
from dalle_cli.training.optimization.divergence import Diverged, DivergenceMonitor

NAMES = [f"{i:02d}" for i in range(12)]


def monitor(folder: Path, *, has_scales: bool = False) -> DivergenceMonitor:
    return DivergenceMonitor(RunDir(folder), has_scales=has_scales, warn=lambda text: None)


def check(watch: DivergenceMonitor, step: int, loss: float, *, is_applied: bool = True) -> None:
    watch.check_update(step, loss, is_applied=is_applied, is_last=False, keys=lambda: NAMES)


@pytest.mark.parametrize(
    ("loss", "is_applied", "has_scales", "what"),
    [
        (math.nan, False, False, "the loss is not finite"),
        (-math.inf, True, False, "the loss is not finite"),
        (1.0, False, False, "the gradients are not finite"),
        (math.inf, True, True, "the loss is not finite"),
    ],
)
def test_update_that_is_not_finite_ends_the_run(
    loss: float, is_applied: bool, has_scales: bool, what: str, tmp_path: Path
) -> None:
    with pytest.raises(Diverged) as caught:
        check(monitor(tmp_path, has_scales=has_scales), 1234, loss, is_applied=is_applied)
    assert caught.value.message == (
        f"{what} at step 1,234, of the samples 00, 01, 02, 03, 04, 05, 06, 07 and 4 more"
    )
    assert "nothing was saved before it" in caught.value.hint


@pytest.mark.parametrize(
    ("losses", "cause"),
    [
        ([], "no update came before it"),
        ([5.0, 4.8], "the learning rate is too high"),
        ([-3.0 - 0.01 * i for i in range(40)], "the losses before it were as usual"),
        ([-3.0 - 0.01 * i for i in range(40)] + [0.5], "the learning rate is too high"),
    ],
)
def test_cause_is_told_by_the_losses_before(
    losses: list[float], cause: str, tmp_path: Path
) -> None:
    watch = monitor(tmp_path)
    for step, loss in enumerate(losses, 1):
        check(watch, step, loss)
    with pytest.raises(Diverged) as caught:
        check(watch, len(losses) + 1, math.nan)
    assert f"most likely, {cause}" in caught.value.hint


@pytest.mark.parametrize("group", ["parameters", "ema"])
def test_weights_that_are_not_finite_are_never_saved(group: str, tmp_path: Path) -> None:
    """Neither as a checkpoint nor in the model folder; what was saved before is named."""
    to = Saver(RunDir(tmp_path), {"kind": "toy"}, 5, single_process(torch.device("cpu")))

    def state(step: int, value: float) -> EngineState:
        tensors = {name: {"w": torch.ones(2)} for name in ("parameters", "exp_avg", "ema")}
        tensors[group]["w"][1] = value
        return EngineState(tensors, {"step": step})

    first, second = state(1, 1.0), state(2, math.inf)
    to.save(first, first.tensors["ema"], None)
    with pytest.raises(Diverged, match="weights are not finite, w the first") as caught:
        to.save(second, second.tensors["ema"], None)
    assert str(to.folder.checkpoint(1)) in caught.value.hint
    assert [path.name for path in to.folder.checkpoints.iterdir()] == ["step-00000001"]
