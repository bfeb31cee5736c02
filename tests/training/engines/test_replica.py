"""The engine of replicas, in one process: its updates, what it skips, averages and restores."""

import math

import pytest
import torch
from torch import Tensor, nn

from dalle_cli.config import Cosine, EmaTable, OptimizerTable, PlateauTable
from dalle_cli.runtime.distributed import single_process
from dalle_cli.training.engines.engine import EngineState
from dalle_cli.training.engines.powersgd import PowerSGD
from dalle_cli.training.engines.replica import ReplicaEngine
from dalle_cli.training.optimization.gradient_scaling import BranchScales, scale_gradients
from dalle_cli.training.optimization.learning_rate import learning_rate

CPU = torch.device("cpu")


class Line(nn.Module):
    """A linear layer that knows which of its parameters is a matrix."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(3, 2)

    def matrices(self) -> list[nn.Parameter]:
        return [self.layer.weight]


def table(**changes: object) -> OptimizerTable:
    plain = {
        "lr": Cosine(start=1e-2, end=1e-3, steps=20),
        "warmup_steps": 3,
        "betas": [0.9, 0.95],
        "eps": 1e-8,
        "weight_decay": 0.1,
        "clip_norm": 0.0,
        "clip_second_moment": 0.0,
    }
    return OptimizerTable(**{**plain, **changes})


def make_engine(seed: int = 0, ema: bool = True, **changes: object) -> ReplicaEngine:
    return ReplicaEngine(
        Line(seed),
        table(**changes),
        ema=EmaTable(decay=0.9, every=1) if ema else None,
        world=single_process(CPU),
    )


def try_update(engine: ReplicaEngine, seed: int, factor: float = 1.0) -> bool:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
    engine.backward(factor * engine.module.layer(x).square().mean())
    return engine.update()


def copy_of(state: EngineState) -> EngineState:
    tensors = {
        group: {n: t.clone() for n, t in named.items()} for group, named in state.tensors.items()
    }
    return EngineState(tensors, dict(state.numbers))


def assert_same(left: EngineState, right: EngineState) -> None:
    assert left.numbers == right.numbers
    torch.testing.assert_close(left.tensors, right.tensors, rtol=0, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_gradients_change_nothing_but_the_step(bad: float) -> None:
    engine = make_engine(clip_norm=1.0)
    assert try_update(engine, seed=0)
    before = copy_of(engine.state())
    assert not try_update(engine, seed=1, factor=bad)
    after = engine.state()
    assert after.numbers == {**before.numbers, "step": before.numbers["step"] + 1}
    torch.testing.assert_close(after.tensors, before.tensors, rtol=0, atol=0)


def test_one_non_finite_value_among_many_skips_the_whole_update() -> None:
    engine = make_engine()
    before = copy_of(engine.state())
    engine.backward(engine.module.layer.weight.sum())
    engine.module.layer.bias.grad = torch.tensor([0.0, math.nan])
    assert not engine.update()
    torch.testing.assert_close(engine.state().tensors, before.tensors, rtol=0, atol=0)


def test_discarded_update_counts_as_a_skipped_one() -> None:
    discarding, skipping = make_engine(), make_engine()
    for engine in (discarding, skipping):
        try_update(engine, seed=0)
    x = torch.ones(4, 3)
    discarding.backward(discarding.module.layer(x).mean())
    discarding.discard()
    try_update(skipping, seed=1, factor=math.nan)
    assert_same(discarding.state(), skipping.state())
    for engine in (discarding, skipping):
        assert try_update(engine, seed=2)
    assert_same(discarding.state(), skipping.state())


def test_gradients_of_a_skipped_update_do_not_leak_into_the_next() -> None:
    skipping, plain = make_engine(), make_engine()
    try_update(skipping, seed=0, factor=math.nan)
    plain._updates.step = 1  # the schedule goes on by the step, skipped or not
    for engine in (skipping, plain):
        assert try_update(engine, seed=1)
    assert_same(skipping.state(), plain.state())


def test_learning_rate_in_force_is_that_of_the_updates_own_step() -> None:
    engine = make_engine()
    for step in range(5):
        try_update(engine, seed=step, factor=math.nan if step == 2 else 1.0)
        assert engine.metrics()["train/lr"] == learning_rate(table(), step)
        assert engine._updates.optimizer.param_groups[0]["lr"] == learning_rate(
            table(), 1 if step == 2 else step
        )


def on_a_plateau(seed: int = 0) -> ReplicaEngine:
    return make_engine(
        seed, plateau=PlateauTable(halvings=3, patience=2, threshold=0.1, smoothing=0.5)
    )


def test_update_after_the_loss_that_ends_the_patience_takes_half_the_step() -> None:
    engine = on_a_plateau()
    for step, halvings in enumerate(
        [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 3]
    ):  # three updates of warm-up
        engine.observe(torch.tensor(1.0))
        try_update(engine, seed=step)
        in_force = learning_rate(table(), step) / 2**halvings
        assert (
            engine.metrics()["train/lr"]
            == engine._updates.optimizer.param_groups[0]["lr"]
            == in_force
        )


@pytest.mark.parametrize("stop", [1, 4, 5, 6, 8])
def test_restored_engine_waits_on_where_it_had_come_to(stop: int) -> None:
    engine, other = on_a_plateau(), on_a_plateau(seed=99)
    for step in range(12):
        if step == stop:
            other.restore(copy_of(engine.state()))
        for one in (engine, other)[: 1 if step < stop else 2]:
            one.observe(1.0 + step % 3)
            try_update(one, seed=step)
    assert_same(engine.state(), other.state())


@pytest.mark.parametrize("moments", ["fp32", "paper"])
def test_restored_engine_goes_on_bit_for_bit(moments: str) -> None:
    engine = make_engine(seed=0, moments=moments)
    for step in range(3):
        try_update(engine, seed=step)
    other = make_engine(seed=99, moments=moments)
    other.restore(copy_of(engine.state()))
    for step in range(3, 7):
        try_update(engine, seed=step)
        try_update(other, seed=step)
    assert_same(engine.state(), other.state())


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (lambda t: t["exp_avg"].pop("layer.bias"), "layer.bias"),
        (lambda t: t["parameters"].update({"layer.weight": torch.zeros(2, 4)}), "layer.weight"),
        (lambda t: t["exp_avg_sq"].update({"more": torch.zeros(1)}), "more"),
        (lambda t: t.pop("ema"), "layer.weight"),
    ],
    ids=["missing", "misshapen", "extra", "no group"],
)
def test_restore_names_tensors_that_do_not_fit(damage, name: str) -> None:
    engine = make_engine()
    state = copy_of(engine.state())
    damage(state.tensors)
    with pytest.raises(ValueError, match=name):
        engine.restore(state)


def test_average_is_used_inside_the_with_alone_even_where_it_fails() -> None:
    engine = make_engine()
    for step in range(4):
        try_update(engine, seed=step)
    trained = {name: p.detach().clone() for name, p in engine.module.named_parameters()}
    average = {name: w.clone() for name, w in engine.inference_weights().items()}
    with pytest.raises(RuntimeError), engine.averaged():
        torch.testing.assert_close(dict(engine.module.named_parameters()), average, rtol=0, atol=0)
        raise RuntimeError
    torch.testing.assert_close(dict(engine.module.named_parameters()), trained, rtol=0, atol=0)
    assert not torch.equal(trained["layer.weight"], average["layer.weight"])


def test_average_matches_its_recurrence() -> None:
    engine = make_engine()
    expected: Tensor | None = None
    for n in range(6):
        try_update(engine, seed=n)
        weight = engine.module.layer.weight.detach().double()
        decay = min(0.9, (1 + n) / (10 + n))
        expected = weight if expected is None else decay * expected + (1 - decay) * weight
    torch.testing.assert_close(
        engine.inference_weights()["layer.weight"].double(), expected, rtol=1e-6, atol=0
    )


def test_gradients_are_clipped_to_the_norm_together() -> None:
    clipped, free = make_engine(clip_norm=0.01), make_engine()
    for engine in (clipped, free):
        try_update(engine, seed=0)
    norm = free.metrics()["train/gradient_norm"]
    assert norm > 0.01
    for name, mean in free.state().tensors["exp_avg"].items():
        torch.testing.assert_close(
            clipped.state().tensors["exp_avg"][name], mean * 0.01 / norm, rtol=1e-3, atol=0
        )


def test_without_an_average_inference_uses_the_trained_weights() -> None:
    engine = make_engine(ema=False)
    try_update(engine, seed=0)
    assert "ema" not in engine.state().tensors
    torch.testing.assert_close(
        engine.inference_weights(), dict(engine.module.named_parameters()), rtol=0, atol=0
    )


class Branches(nn.Module):
    """Two residual branches that train in fp16, with a scale each."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.branches = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))

    def matrices(self) -> list[nn.Parameter]:
        return [branch.weight for branch in self.branches]

    def forward(self, x: Tensor) -> Tensor:
        for branch in self.branches:
            x = x + branch(x)
        return x


def scaled_engine() -> tuple[ReplicaEngine, BranchScales]:
    module = Branches()
    scales = scale_gradients(list(module.branches), 1, CPU)
    return ReplicaEngine(
        module, table(), ema=None, world=single_process(CPU), scales=scales
    ), scales


def step_of_branches(engine: ReplicaEngine, size: float = 1.0) -> bool:
    engine.backward(size * engine.module(torch.ones(2, 3)).square().mean())
    return engine.update()


def test_scales_grow_by_updates_and_shrink_with_an_overflow_that_skips_all() -> None:
    engine, scales = scaled_engine()
    assert step_of_branches(engine)
    torch.testing.assert_close(
        scales.scales, torch.full((2,), 2.0 ** (13 + 1 / 1000)), rtol=1e-6, atol=0
    )
    before = copy_of(engine.state())
    assert not step_of_branches(engine, size=1e6)  # times its scale, beyond fp16
    after = engine.state()
    torch.testing.assert_close(
        after.tensors["parameters"], before.tensors["parameters"], rtol=0, atol=0
    )
    assert (scales.scales < 2.0**13).all()
    assert float(engine.metrics()["grad_scale/max"]) == float(scales.scales.max())


def test_restored_scales_are_those_that_were_saved() -> None:
    engine, scales = scaled_engine()
    for size in (1.0, 1e6, 1.0):
        step_of_branches(engine, size)
    again, restored = scaled_engine()
    again.restore(copy_of(engine.state()))
    for one in (engine, again):
        step_of_branches(one)
    assert_same(again.state(), engine.state())
    assert restored.scales.equal(scales.scales)


def test_run_of_another_precision_is_gone_on_with_at_the_first_scales() -> None:
    engine, scales = scaled_engine()
    state = copy_of(engine.state())
    del state.tensors["grad_scales"]
    engine.restore(state)
    assert (scales.scales == 2.0**13).all()


def compressed_engine(rank: int = 1) -> ReplicaEngine:
    module = Branches()
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters() if p.ndim == 2}
    return ReplicaEngine(
        module,
        table(),
        ema=None,
        world=single_process(CPU),
        compression=PowerSGD(shapes, rank, seed=0, n_ranks=1, device=CPU),
    )


def test_compressed_gradients_are_what_the_optimizer_sees() -> None:
    compressed, plain = (
        compressed_engine(),
        ReplicaEngine(Branches(), table(), ema=None, world=single_process(CPU)),
    )
    for engine in (compressed, plain):
        engine.backward(
            engine.module(torch.randn(5, 3, generator=torch.Generator().manual_seed(3)))
            .square()
            .mean()
        )
    gradients = {name: p.grad.clone() for name, p in plain.module.named_parameters()}
    compressed.update()
    errors = compressed.state().tensors["compression_errors"]
    for name, moment in compressed.state().tensors["exp_avg"].items():
        error = errors.get(name, torch.zeros(()))
        torch.testing.assert_close(moment / 0.1 + error, gradients[name], rtol=1e-4, atol=1e-6)
    assert all(
        torch.linalg.matrix_rank(gradients[n] - e, rtol=1e-4) == 1 for n, e in errors.items()
    )


@pytest.mark.parametrize("where", ["everywhere", "in a vector"])
def test_skipped_update_leaves_no_trace_in_the_errors(where: str) -> None:
    engine = compressed_engine()
    step_of_branches(engine)
    before = copy_of(engine.state())
    if where == "everywhere":
        assert not step_of_branches(engine, size=math.inf)
    else:  # matrices are compressed well
        engine.backward(engine.module(torch.ones(2, 3)).square().mean())
        engine.module.branches[0].bias.grad[0] = math.inf
        assert not engine.update()
    torch.testing.assert_close(engine.state().tensors, before.tensors, rtol=0, atol=0)


def test_restored_errors_are_those_that_were_saved() -> None:
    engine, again = compressed_engine(), compressed_engine()
    step_of_branches(engine)
    again.restore(copy_of(engine.state()))
    for one in (engine, again):
        step_of_branches(one)
    assert_same(again.state(), engine.state())
