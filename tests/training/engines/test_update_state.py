"""What engines share around an update: counts, average and scales, and numbers that come back."""

import torch
from torch import Tensor, nn

from dalle_cli.config import Cosine, EmaTable, OptimizerTable, PlateauTable
from dalle_cli.runtime.distributed import single_process
from dalle_cli.training.engines.update_state import UpdateState
from dalle_cli.training.optimization.adamw import build_optimizer
from dalle_cli.training.optimization.loss_scaling import LossScale

CPU = torch.device("cpu")
TABLE = OptimizerTable(
    lr=Cosine(start=0.1, end=0.1, steps=1), warmup_steps=0, betas=[0.9, 0.9], eps=1e-8,
    weight_decay=0.0, clip_norm=0.0, clip_second_moment=0.0,
    plateau=PlateauTable(halvings=3, patience=2, threshold=0.1, smoothing=0.5),
)  # fmt: skip


def made(scales: LossScale | None = None, ema_every: int = 1) -> tuple[UpdateState, nn.Parameter]:
    weight = nn.Parameter(torch.ones(2, 2))
    updates = UpdateState(
        build_optimizer([weight], [weight], TABLE),
        {"weight": weight},
        table=TABLE,
        ema=EmaTable(decay=0.5, every=ema_every),
        scales=scales,
        world=single_process(CPU),
    )
    return updates, weight


def attempt(updates: UpdateState, weight: nn.Parameter, *, is_applied: bool) -> None:
    updates.observe(1.0)
    if is_applied:
        weight.grad = torch.ones(2, 2)
        updates.prepare()
        updates.optimizer.step()
    updates.finish(is_applied=is_applied)


def weights_of(updates: UpdateState) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in updates.inference_weights().items()}


def test_skipped_update_is_counted_as_attempted_and_moves_no_average() -> None:
    updates, weight = made()
    attempt(updates, weight, is_applied=True)
    before = weights_of(updates)
    attempt(updates, weight, is_applied=False)
    assert (updates.step, updates.n_applied) == (2, 1)
    assert updates.numbers()["ema_updates"] == 1
    torch.testing.assert_close(weights_of(updates), before, rtol=0, atol=0)


def test_average_that_is_updated_now_and_then_counts_its_own_updates_after_a_resumption() -> None:
    updates, weight = made(ema_every=2)
    for _ in range(5):
        attempt(updates, weight, is_applied=True)
    resumed, _ = made(ema_every=2)
    resumed.restore_numbers(updates.numbers())
    assert resumed.numbers() == updates.numbers()
    assert (resumed.n_applied, resumed.ema and resumed.ema.n_updates) == (5, 2)


def test_skipped_update_moves_the_scales() -> None:
    scales = LossScale(CPU)
    updates, weight = made(scales)
    scales.overflowed += 1
    attempt(updates, weight, is_applied=False)
    assert float(scales.scale) == 2.0**15 and not scales.overflowed


def test_first_update_is_number_one_to_the_optimizer_wherever_the_step_stands() -> None:
    updates, weight = made()
    attempt(updates, weight, is_applied=False)
    attempt(updates, weight, is_applied=True)
    assert updates.optimizer.param_groups[0]["update"] == 1


def test_restored_numbers_are_those_that_were_stored() -> None:
    updates, weight = made()
    for is_applied in (True, False, True, True):
        attempt(updates, weight, is_applied=is_applied)
    other, _ = made()
    other.restore_numbers(updates.numbers())
    assert other.numbers() == updates.numbers()
    assert other.metrics(1.0) == updates.metrics(1.0)


def test_groups_have_the_names_and_shapes_of_the_weights() -> None:
    updates, _ = made(LossScale(CPU))
    groups = updates.weight_groups()
    assert list(groups) == ["parameters", "exp_avg", "exp_avg_sq", "ema"]
    assert all(group["weight"].shape == (2, 2) for group in groups.values())
    assert set(updates.scale_group()["grad_scales"]) == {"loss_scale", "clean_updates"}
