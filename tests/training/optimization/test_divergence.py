"""Which updates end a run, which fp16 bears, and what is told of the cause."""

import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.distributed import single_process
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training.checkpoint import Saver
from dalle_cli.training.engines.engine import EngineState
from dalle_cli.training.optimization.divergence import MAX_SKIPPED, Diverged, DivergenceMonitor

NAMES = [f"{i:02d}" for i in range(12)]


def monitor(
    folder: Path, *, has_scales: bool = False, on_spike: str = "warn", losses: Sequence[float] = ()
) -> DivergenceMonitor:
    table = load_recipe("dvae/tiny", [f"optimizer.on_spike={on_spike}"]).optimizer
    return DivergenceMonitor(
        RunDir(folder), table, has_scales=has_scales, warn=lambda text: None, losses=losses
    )


def check(
    watch: DivergenceMonitor,
    step: int,
    loss: float,
    *,
    is_applied: bool = True,
    can_recover: bool = False,
) -> None:
    watch.check_update(
        step,
        loss,
        is_applied=is_applied,
        is_last=False,
        keys=lambda: NAMES,
        can_recover=lambda: can_recover,
    )


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


def test_only_updates_skipped_in_a_row_end_a_run(tmp_path: Path) -> None:
    watch = monitor(tmp_path, has_scales=True)
    for step in range(1, MAX_SKIPPED):
        check(watch, step, math.inf, is_applied=False)
    check(watch, MAX_SKIPPED, 1.0)

    for step in range(1, MAX_SKIPPED):
        check(watch, MAX_SKIPPED + step, math.inf, is_applied=False)
    with pytest.raises(Diverged, match=f"{MAX_SKIPPED} updates in a row"):
        check(watch, 2 * MAX_SKIPPED, math.inf, is_applied=False)


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


def leaps_by_hand(losses: Sequence[float], loss: float) -> bool:
    """The rule, by sorting."""
    middle = sorted(losses)[len(losses) // 2]
    deviation = sorted(abs(value - middle) for value in losses)[len(losses) // 2]
    return loss > middle + 10 * max(deviation, 0.01 * abs(middle))


@pytest.mark.parametrize("level", [5.0, -3.0, 0.0])
@pytest.mark.parametrize("noise", [0.5, 1e-6])
def test_loss_leaps_where_it_is_ten_deviations_above_the_median(
    level: float, noise: float, tmp_path: Path
) -> None:
    """Whatever the level, and even if some of the last losses have leapt, too."""
    rng = random.Random(0)
    losses = [level + noise * rng.gauss(0, 1) for _ in range(91)] + [level + 1e3] * 10
    watch = monitor(tmp_path, on_spike="skip", losses=losses)
    for above in (0, 1, 3, 5, 6, 7, 9, 12, 1e3, 1e7):
        loss = level + noise * above
        assert watch.is_unwanted(loss) == leaps_by_hand(losses, loss), above


def test_no_loss_leaps_among_few_nor_after_they_have_risen_for_long(tmp_path: Path) -> None:
    few = monitor(tmp_path, on_spike="skip", losses=[1.0] * 31)
    assert not few.is_unwanted(1e9)
    risen = monitor(tmp_path, losses=[1.0] * 128)
    for step in range(1, 66):
        check(risen, step, 100.0)
    assert risen.losses == [1.0] * 63 + [100.0] * 65
    assert not monitor(tmp_path, on_spike="skip", losses=risen.losses).is_unwanted(101.0)


def test_losses_that_are_not_finite_end_the_run_whatever_follows_a_leap(tmp_path: Path) -> None:
    watch = monitor(tmp_path, on_spike="skip", losses=[1.0] * 40)
    assert not watch.is_unwanted(math.inf)
    with pytest.raises(Diverged, match="the loss is not finite at step 41"):
        check(watch, 41, math.inf)


def test_fifty_leaps_in_a_row_end_a_run_that_skips_them(tmp_path: Path) -> None:
    watch = monitor(tmp_path, on_spike="skip", losses=[1.0] * 40)
    for step in range(1, 50):
        check(watch, step, 9.0, is_applied=False)
    with pytest.raises(Diverged, match="50 updates in a row were skipped: their losses leapt"):
        check(watch, 50, 9.0, is_applied=False)


@pytest.mark.parametrize("loss", [1.0, math.nan])
def test_overflows_end_a_run_where_lower_scales_do_not_help(loss: float, tmp_path: Path) -> None:
    """Those that the scales may yet end do not count, unless the loss itself is not finite."""
    watch = monitor(tmp_path, has_scales=True)
    is_finite = math.isfinite(loss)
    for step in range(1, 2000 if is_finite else 50):
        check(watch, step, loss, is_applied=False, can_recover=True)
    if is_finite:
        for step in range(2000, 2049):
            check(watch, step, loss, is_applied=False)
    with pytest.raises(Diverged, match="50 updates in a row were skipped"):
        check(watch, 2049, loss, is_applied=False)
