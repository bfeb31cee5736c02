"""A single gradient scale: its rules, unscaled gradients, and an engine and a run that use it."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dalle_cli.config import Cosine, OptimizerTable
from dalle_cli.loading import build_dvae
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.distributed import single_process
from dalle_cli.runtime.precision import apply_precision
from dalle_cli.training.checkpoint import load_checkpoint
from dalle_cli.training.engines.replica import ReplicaEngine
from dalle_cli.training.optimization.loss_scaling import WINDOW, LossScale, scale_loss

CPU = torch.device("cpu")
OPTIMIZER = OptimizerTable(
    lr=Cosine(start=1e-2, end=1e-2, steps=1), warmup_steps=0, betas=[0.9, 0.95], eps=1e-8,
    weight_decay=0.0,
    clip_norm=0.0, clip_second_moment=0.0,
)  # fmt: skip


class Line(nn.Module):
    """A linear layer in fp16 that knows which of its parameters is a matrix."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)

    def matrices(self) -> list[nn.Parameter]:
        return [self.layer.weight]

    def half_precision_modules(self) -> list[nn.Module]:
        return [self.layer]


def make_engine() -> tuple[ReplicaEngine, LossScale]:
    model = Line()
    apply_precision(model, "fp16", CPU)
    scale = scale_loss(model, CPU)
    return ReplicaEngine(model, OPTIMIZER, ema=None, world=single_process(CPU), scales=scale), scale


def try_update(engine: ReplicaEngine, size: float = 1.0) -> bool:
    engine.backward(size * engine.module.layer(torch.ones(2, 4)).mean())
    return engine.update()


def after(events: list[bool], scale: LossScale) -> list[float]:
    """The scale after each update; True is an overflow."""
    found = []
    for event in events:
        scale.overflowed += float(event)
        scale.update()
        found.append(float(scale.scale))
    return found


def test_scale_follows_a_plain_account_of_its_rules() -> None:
    generator = torch.Generator().manual_seed(0)
    events = [bool(torch.rand((), generator=generator) < 1 / 1500) for _ in range(20_000)]
    value, clean, expected = 65536.0, 0, []
    for event in events:
        value, clean = (value / 2, 0) if event else (value, clean + 1)
        if clean == WINDOW:
            value, clean = value * 2, 0
        expected.append(value)
    assert after(events, LossScale(CPU)) == expected
    assert len(set(expected)) > 3 and any(events)


def test_flag_is_cleared_with_the_update() -> None:
    assert after([True, False, False], LossScale(CPU)) == [32768.0] * 3


def test_overflow_may_end_until_the_scale_is_one() -> None:
    scale = LossScale(CPU)
    found = []
    for is_overflow in [False, *[True] * 18]:
        scale.overflowed += float(is_overflow)
        scale.update()
        found.append(scale.can_recover())
    assert found == [False, *[True] * 16, False, False]


def dvae_gradients(precision: str, loss_of: Callable[[Tensor], Tensor], scaled: bool) -> Tensor:
    torch.manual_seed(0)
    model = build_dvae(load_recipe("dvae/tiny", []).model)
    apply_precision(model, precision, CPU)
    scale = scale_loss(model, CPU) if scaled else None
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    loss = loss_of(
        torch.cat(model.decode_soft(model.codebook_logits(images).softmax(dim=1)), dim=1)
    )
    (scale.scaled(loss) if scale else loss).backward()
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_gradients_too_small_for_fp16_arrive_under_the_scale_alone() -> None:
    loss_of = lambda out: 1e-5 * out.square().mean()  # noqa: E731
    exact = dvae_gradients("fp32", loss_of, scaled=False)
    errors = [
        float((dvae_gradients("fp16", loss_of, scaled) - exact).norm() / exact.norm())
        for scaled in (True, False)
    ]
    assert errors[0] < 0.01 < 0.5 < errors[1]


def test_overflow_skips_the_update_and_halves_the_scale() -> None:
    engine, scale = make_engine()
    before = {name: p.detach().clone() for name, p in engine.module.named_parameters()}
    assert not try_update(engine, size=1e3)
    torch.testing.assert_close(dict(engine.module.named_parameters()), before, rtol=0, atol=0)
    assert float(scale.scale) == 32768 == float(engine.metrics()["train/loss_scale"])
    assert engine.step == 1 and try_update(engine)


def test_a_scale_too_high_comes_down_until_updates_are_taken() -> None:
    engine, scale = make_engine()
    applied = [try_update(engine, size=100.0) for _ in range(12)]
    assert applied == sorted(applied) and applied[-1] and not applied[0]
    assert float(scale.scale) == 65536 / 2 ** applied.count(False)


def test_restored_scale_is_the_one_that_was_saved() -> None:
    (engine, scale), (again, restored) = make_engine(), make_engine()
    for size in (1e3, 1.0, 1e3, 1.0):
        try_update(engine, size)
    again.restore(engine.state())
    assert torch.equal(restored.scale, scale.scale) and float(scale.scale) == 16384
    for one in (engine, again):
        try_update(one)
    torch.testing.assert_close(again.state().tensors, engine.state().tensors, rtol=0, atol=0)


@pytest.mark.thorough
def test_dvae_trains_in_fp16_and_goes_on_in_it(
    tmp_path: Path, pairs: Path, dalle: Callable, settings: Callable, fixed_schedules: Callable
) -> None:
    words = ["train-dvae", "dvae/tiny", "--data", pairs, *fixed_schedules("dvae", 5)]
    fp16 = settings(runtime__precision="fp16")
    for steps, run in ((11, "whole"), (6, "cut"), (11, "cut")):
        ended = dalle(*words, "--run", tmp_path / run, *fp16, "--set", f"training.steps={steps}")
        assert ended.code == 0, ended.err
    states = [
        load_checkpoint(tmp_path / run / "checkpoints" / "step-00000011").tensors
        for run in ("whole", "cut")
    ]
    for group in ("parameters", "grad_scales"):
        for name, tensor in states[0][group].items():
            assert torch.equal(tensor, states[1][group][name])
    lines = [
        json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    ]
    trained = [line for line in lines if "train/loss" in line]
    assert len(trained) == 11 and all(math.isfinite(line["train/loss"]) for line in trained[-5:])
    assert trained[-1]["train/loss_scale"] == float(states[0]["grad_scales"]["loss_scale"])
