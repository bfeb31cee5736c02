"""AdamW against torch's, and its clip of the second moment against one number at a time."""

import math

import pytest
import torch
from torch import Tensor, nn

from dalle_cli.config import Cosine, OptimizerTable
from dalle_cli.training.optimization.adamw import AdamW, build_optimizer
from dalle_cli.training.optimization.float_formats import FLOAT_0_6_10, FLOAT_1_6_9

STEPS = 20


def table(weight_decay: float = 0.0, clip_second_moment: float = 0.0) -> OptimizerTable:
    lr = Cosine(start=1e-2, end=1e-3, steps=STEPS)
    clips = {"clip_norm": 0.0, "clip_second_moment": clip_second_moment}
    return OptimizerTable(
        lr=lr, warmup_steps=0, betas=[0.9, 0.96], eps=1e-6, weight_decay=weight_decay, **clips
    )


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3))


def matrices(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.ndim == 2]


def others(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.ndim != 2]


def prepare(optimizer: torch.optim.Optimizer, update: int, lr: float) -> None:
    """Do by hand what `AdamW.prepare` does, which torch's optimizers lack."""
    for group in optimizer.param_groups:
        group["update"], group["lr"] = update, lr


def train(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Twenty updates, each with another step size and other data."""
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        prepare(optimizer, step + 1, 1e-2 / (1 + step))
        optimizer.zero_grad()
        module(torch.randn(5, 4, generator=generator)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_adamw_equals_torchs_over_twenty_updates(weight_decay: float) -> None:
    ours, theirs = network(), network()
    train(ours, build_optimizer(matrices(ours), ours.parameters(), table(weight_decay)))
    groups = [
        {"params": matrices(theirs), "weight_decay": weight_decay},
        {"params": others(theirs), "weight_decay": 0.0},
    ]
    train(theirs, torch.optim.AdamW(groups, betas=(0.9, 0.96), eps=1e-6))
    for left, right, start in zip(
        ours.parameters(), theirs.parameters(), network().parameters(), strict=True
    ):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-7)
        assert (left - start).abs().max() > 1e-3


@pytest.mark.parametrize("clip", [0.0, 0.5, 5.0])
def test_clipped_second_moment_matches_one_number_at_a_time(clip: float) -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(STEPS, 6, generator=generator) * torch.tensor([0.1, 1, 2, 4, 8, 30])
    parameter = nn.Parameter(torch.linspace(-1, 1, 6).view(2, 3))
    optimizer = build_optimizer(
        [parameter], [parameter], table(weight_decay=0.1, clip_second_moment=clip)
    )

    weights, means, variances = parameter.detach().double().flatten().tolist(), [0.0] * 6, [0.0] * 6
    for step, gradient in enumerate(gradients):
        lr = 0.05 / (1 + step)
        optimizer.prepare(step + 1, lr)
        parameter.grad = gradient.view(2, 3).clone()
        optimizer.step()
        for i, g in enumerate(gradient.double().tolist()):
            means[i] = 0.9 * means[i] + 0.1 * g
            variances[i] = 0.96 * variances[i] + 0.04 * g * g
            if clip:
                variances[i] = min(variances[i], clip)
            mean, variance = (
                means[i] / (1 - 0.9 ** (step + 1)),
                variances[i] / (1 - 0.96 ** (step + 1)),
            )
            weights[i] -= lr * 0.1 * weights[i] + lr * mean / (math.sqrt(variance) + 1e-6)
    torch.testing.assert_close(
        parameter.detach().flatten(), torch.tensor(weights), rtol=1e-5, atol=1e-6
    )
    largest = float(optimizer.state[parameter]["exp_avg_sq"].max())
    assert largest == pytest.approx(clip) if clip else largest > 5


def test_decay_shrinks_the_matrices_and_nothing_else() -> None:
    module = network()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    optimizer = build_optimizer(matrices(module), module.parameters(), table(weight_decay=0.5))
    optimizer.prepare(1, 0.1)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter, old in zip(module.parameters(), before, strict=True):
        expected = old * (1 - 0.1 * 0.5) if parameter.ndim == 2 else old
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-6, atol=0)


def test_every_parameter_belongs_to_one_group() -> None:
    module = network()
    optimizer = build_optimizer(matrices(module), module.parameters(), table())
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in module.parameters())


def test_parameters_without_a_gradient_are_left_alone() -> None:
    first, second = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = build_optimizer([first, second], [first, second], table(weight_decay=0.5))
    optimizer.prepare(1, 0.1)
    first.grad = torch.ones(2, 2)
    optimizer.step()
    assert torch.equal(second.detach(), torch.ones(2, 2)) and (first < 1).all()


def test_a_first_update_moves_every_weight_by_the_step_size() -> None:
    parameter = nn.Parameter(torch.zeros(3, 2))
    optimizer: AdamW = build_optimizer([parameter], [parameter], table())
    optimizer.prepare(1, 0.1)
    parameter.grad = torch.tensor([[1.0, -1], [50, -50], [0.01, -0.01]])
    optimizer.step()
    signs: Tensor = parameter.grad.sign()
    torch.testing.assert_close(parameter.detach(), -0.1 * signs, rtol=1e-3, atol=0)


def test_step_in_parts_equals_a_whole_one() -> None:
    """DeepSpeed exchanges the groups' parameters for flat partitions, and steps group by group."""
    whole, parts = network(), network()
    optimizers = [
        build_optimizer(matrices(m), m.parameters(), table(weight_decay=0.3))
        for m in (whole, parts)
    ]
    for update in range(1, 4):
        for module, optimizer in zip((whole, parts), optimizers, strict=True):
            optimizer.prepare(update, 1e-2)
            for parameter in module.parameters():
                parameter.grad = torch.full_like(parameter, 0.5 * update)
        optimizers[0].step()
        groups = optimizers[1].param_groups
        for group in groups:
            optimizers[1].param_groups = [group]
            optimizers[1].step()
        optimizers[1].param_groups = groups
    assert all(
        torch.equal(left, right)
        for left, right in zip(whole.parameters(), parts.parameters(), strict=True)
    )


@pytest.mark.parametrize("at_once", [1, 30, 10**9])
def test_lots_make_no_difference(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dalle_cli.training.optimization.adamw.CHUNK_VALUES", at_once)
    module, whole = network(), network()
    train(module, build_optimizer(matrices(module), module.parameters(), table(0.3)))
    monkeypatch.undo()
    train(whole, build_optimizer(matrices(whole), whole.parameters(), table(0.3)))
    assert all(
        torch.equal(left, right)
        for left, right in zip(module.parameters(), whole.parameters(), strict=True)
    )


def in_16_bits(**changes: float) -> OptimizerTable:
    return table(**changes).model_copy(update={"moments": "paper"})


def test_moments_in_16_bits_are_rounded_after_each_update_and_nowhere_else() -> None:
    """Against a plain restatement in fp32, whose moments are rounded by hand."""
    generator = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(torch.linspace(-1, 1, 60).view(6, 10))
    optimizer = build_optimizer([parameter], [parameter], in_16_bits(clip_second_moment=5.0))
    weights, mean, variance = parameter.detach().clone(), torch.zeros(6, 10), torch.zeros(6, 10)
    for update in range(1, STEPS + 1):
        gradient = torch.randn(6, 10, generator=generator) * 10.0 ** torch.arange(-8, 2)
        optimizer.prepare(update, 0.05)
        parameter.grad = gradient.clone()
        optimizer.step()

        mean = 0.9 * mean + 0.1 * gradient
        variance = (0.96 * variance + 0.04 * gradient**2).clamp(max=5)
        deviation = variance.sqrt() / (1 - 0.96**update) ** 0.5 + 1e-6
        weights -= 0.05 / (1 - 0.9**update) * mean / deviation
        mean = FLOAT_1_6_9.decode(FLOAT_1_6_9.encode(mean))
        variance = FLOAT_0_6_10.decode(FLOAT_0_6_10.encode(variance))
    moments = optimizer.moments(parameter)
    torch.testing.assert_close(parameter.detach(), weights, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        FLOAT_1_6_9.decode(moments["exp_avg"]), mean, rtol=2**-8, atol=2.0**-60
    )
    torch.testing.assert_close(
        FLOAT_0_6_10.decode(moments["exp_avg_sq"]), variance, rtol=2**-9, atol=2.0**-60
    )


def test_matrices_alone_have_moments_in_16_bits() -> None:
    """As published: those of gains, biases, embeddings and unembeddings are fp32."""
    module = network()
    optimizer = build_optimizer(matrices(module), module.parameters(), in_16_bits())
    train(module, optimizer)
    for parameter in module.parameters():
        expected = torch.int16 if parameter.ndim == 2 else torch.float32
        for moment in optimizer.moments(parameter).values():
            assert moment.dtype == expected and moment.shape == parameter.shape
            assert moment.any()


@pytest.mark.parametrize("at_once", [1, 30])
def test_lots_make_no_difference_in_16_bits_either(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dalle_cli.training.optimization.adamw.CHUNK_VALUES", at_once)
    module, whole = network(), network()
    train(module, build_optimizer(matrices(module), module.parameters(), in_16_bits()))
    monkeypatch.undo()
    train(whole, build_optimizer(matrices(whole), whole.parameters(), in_16_bits()))
    for left, right in zip(module.parameters(), whole.parameters(), strict=True):
        assert torch.equal(left, right)
