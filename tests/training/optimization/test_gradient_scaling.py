"""A gradient scale for each residual branch: what it saves from fp16, and its rules.

Gradients of a known size are sent down a stream of branches: the loss is the stream's end, times
signs of one size.
"""

import copy
import random
from functools import partial

import pytest
import torch
from scale_rules import WINDOW, scales_by_hand
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dalle_cli.config import TransformerRecipe
from dalle_cli.generation.sampling import Sampler, SamplingSettings, candidate_uniforms
from dalle_cli.loading import build_transformer
from dalle_cli.losses import text_image_cross_entropy
from dalle_cli.models.attention import attend
from dalle_cli.models.transformer import AttentionBranch, MlpBranch, Transformer
from dalle_cli.recipe import load_recipe
from dalle_cli.training.optimization.gradient_scaling import (
    DIVISION,
    HIGHEST,
    INITIAL,
    LOWEST,
    BranchScales,
    scale_gradients,
)

CPU = torch.device("cpu")
D, N = 16, 32  # width, positions
MASK = torch.ones(N, N, dtype=torch.bool).tril()
ATTEND = partial(attend, mask=MASK)
LARGEST, SMALLEST = 65504.0, 2.0**-24  # of fp16


class Stream(nn.Module):
    """Attention and perceptron branches in turn, on an identity path that loses a share at each."""

    def __init__(self, n_branches: int, damping: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        kinds = [
            AttentionBranch(D, n_heads=2) if i % 2 == 0 else MlpBranch(D) for i in range(n_branches)
        ]
        self.branches = nn.ModuleList(kinds)
        self.damping = damping
        for parameter in self.parameters():
            if parameter.ndim == 2:  # keeps the size of what it multiplies, forward and backward
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)

    def forward(self, x: Tensor, is_recomputed: bool = False) -> Tensor:
        for branch in self.branches:
            others = (ATTEND,) if isinstance(branch, AttentionBranch) else ()
            added = (
                checkpoint(branch, x, *others, use_reentrant=False)
                if is_recomputed
                else branch(x, *others)
            )
            x = self.damping * x + added
        return x


def noise(seed: int = 1) -> Tensor:
    return torch.randn(1, N, D, generator=torch.Generator().manual_seed(seed))


def signs() -> Tensor:
    return noise(seed=2).sign()


def backward(stream: Stream, x: Tensor, gradient: Tensor, **options: bool) -> list[Tensor]:
    """Send a gradient down the stream; give each branch's parameter gradients as one vector."""
    stream.zero_grad()
    (stream(x, **options) * gradient).sum().backward()
    return gradients(stream)


def gradients(stream: Stream) -> list[Tensor]:
    return [
        torch.cat([p.grad.flatten() for p in branch.parameters()]) for branch in stream.branches
    ]


def worst_error(found: list[Tensor], exact: list[Tensor]) -> float:
    """The largest relative error among the branches; not a number where one is not finite."""
    errors = [(a - b).norm() / b.norm() for a, b in zip(found, exact, strict=True)]
    return float(torch.stack(errors).max())


def share_of_zeros(vectors: list[Tensor]) -> float:
    return float((torch.cat(vectors) == 0).float().mean())


def scaled_stream(n_branches: int, damping: float = 1.0) -> tuple[Stream, BranchScales]:
    stream = Stream(n_branches, damping)
    return stream, scale_gradients(list(stream.branches), n_replicas=1, device=CPU)


def large_noise(n_branches: int, damping: float) -> Tensor:
    """Noise that ends a hundred times as large as what a branch adds to it.

    The gradient that comes through a branch, behind its LayerNorm, is then a hundredth of what
    passes it by: so many branches before the last one, the gradient is damping ** so many, to about
    a hundredth.
    """
    return 100 * noise() * damping**-n_branches


def test_scales_keep_the_gradients_that_fp16_alone_loses() -> None:
    """The branches get gradients of 1e-6 (the last of 48) down to 1.4e-9.

    What is below half of fp16's smallest number is rounded to zero: that of every branch 26 or more
    before the last, or 22 of the first 24. Their parameters cannot but get zeros, whatever the
    inputs: 92 %, and some more within the other two. The first of all comes out at 0.02 once the
    scale has grown to its bound, well inside of what fp16 holds.
    """
    n_branches, damping, size = 48, 0.87, 1e-6
    x, gradient = large_noise(n_branches, damping), size * signs()
    assert size * damping**25 > SMALLEST / 2 > 1.05 * size * damping**26

    exact = backward(Stream(n_branches, damping), x, gradient)
    with torch.autocast("cpu", torch.float16):
        plain = Stream(n_branches, damping)
        loss = (plain(x) * gradient).sum()
    loss.backward()
    assert share_of_zeros(exact) < 0.001
    assert share_of_zeros(gradients(plain)[: n_branches // 2]) > 0.9

    stream, scales = scaled_stream(n_branches, damping)
    assert worst_error(backward(stream, x, gradient), exact) < 0.01  # as a run begins
    for _ in range(
        11_000
    ):  # clean updates until the bound, in none of which these gradients overflow
        scales.update()
    found = backward(stream, x, gradient)
    assert scales.scales.tolist() == [2.0**24] * n_branches
    assert not scales.overflowed.any()
    assert worst_error(found, exact) < 0.01


def test_a_scale_each_serves_where_no_single_one_does() -> None:
    """From 1 down to 4e-11: fp16 spans less, between its overflow and one per cent of rounding."""
    n_branches, damping = 48, 0.6
    x = large_noise(n_branches, damping)
    exact = backward(Stream(n_branches, damping), x, signs())
    stream, scales = scaled_stream(n_branches, damping)

    def serves() -> bool:
        scales.overflowed.zero_()
        error = worst_error(backward(stream, x, signs()), exact)
        return error < 0.01 and not scales.overflowed.any()

    for exponent in range(7, 25):
        scales.scales.fill_(2.0**exponent)
        assert not serves(), exponent
    sizes = damping ** torch.arange(n_branches - 1, -1, -1)
    scales.scales.copy_((1 / sizes).clamp(2.0**7, 2.0**24))
    assert serves()


def overflow_patterns(n_updates: int) -> list[list[bool]]:
    """Never, always, next to the window's ends, and at random from rarely to nearly always."""
    at = [
        set(),
        set(range(n_updates)),
        {0},
        {10, 10 + WINDOW - 1},
        {10, 10 + WINDOW},
        {10, 11 + WINDOW},
    ]
    at += [{0, 60, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW - 1, 2 * WINDOW}]
    draw = random.Random(0)
    at += [
        {i for i in range(n_updates) if draw.random() < share}
        for share in (0.003, 0.01, 0.05, 0.3, 0.95)
    ]
    return [[i in updates for i in range(n_updates)] for updates in at]


@pytest.mark.parametrize("n_replicas", [1, 3, 1024])
@pytest.mark.parametrize(
    ("start", "bound_reached"),
    [(2.0**13, None), (2.0**7 * 2 ** (600 / 1000), 2.0**7), (2.0**24 / 2 ** (100 / 1000), 2.0**24)],
)
def test_scales_move_as_computed_by_hand(
    start: float, bound_reached: float | None, n_replicas: int
) -> None:
    patterns = overflow_patterns(n_updates=700)
    scales = BranchScales(len(patterns), n_replicas, CPU)
    if bound_reached is not None:
        scales.scales.fill_(n_replicas * start)
    found = []
    for flags in zip(*patterns, strict=True):
        scales.overflowed.copy_(torch.tensor(flags))
        scales.update()
        assert not scales.overflowed.any()
        found.append(scales.scales.clone())
    expected = [scales_by_hand(n_replicas * start, pattern, n_replicas) for pattern in patterns]
    as_fp32 = torch.tensor(expected, dtype=torch.float64).T.float()
    torch.testing.assert_close(torch.stack(found), as_fp32, rtol=2**-23, atol=0)
    if bound_reached is not None:
        assert n_replicas * bound_reached in as_fp32[-1]


def test_a_thousand_clean_updates_double_a_scale_to_the_last_bit() -> None:
    scales = BranchScales(2, 1024, CPU)
    for _ in range(1000):
        scales.update()
    assert scales.scales.dtype == torch.float32
    assert scales.scales.tolist() == [1024 * 2.0**14] * 2


def test_restored_scales_go_on_to_the_last_bit() -> None:
    patterns = overflow_patterns(n_updates=300)
    flags = torch.tensor(patterns).T.float()
    first, second = (BranchScales(len(patterns), 3, CPU) for _ in range(2))
    for i in range(300):
        if i == 150:
            second.restore({name: tensor.clone() for name, tensor in first.state().items()})
        for scales in (first, second) if i >= 150 else (first,):
            scales.overflowed.copy_(flags[i])
            scales.update()
    torch.testing.assert_close(second.state(), first.state(), rtol=0, atol=0)


def test_scales_of_other_replicas_are_kept_and_come_into_range() -> None:
    many, one = BranchScales(2, 1024, CPU), BranchScales(2, 1, CPU)
    many.scales.copy_(torch.tensor([2.0**18, 2.0**30]))
    one.restore(many.state())
    assert one.scales.tolist() == [2.0**18, 2.0**30]
    one.update()
    torch.testing.assert_close(one.scales, torch.tensor([2**18.001, 2.0**24]), rtol=2**-23, atol=0)


def test_metrics_are_the_extremes_of_their_own_update() -> None:
    scales = BranchScales(3, 1, CPU)
    scales.scales.copy_(torch.tensor([2.0**9, 2.0**7, 2.0**11]))
    metrics = scales.metrics()
    scales.update()
    assert {name: float(value) for name, value in metrics.items()} == {
        "grad_scale/min": 2**7,
        "grad_scale/max": 2**11,
    }


@pytest.mark.parametrize("culprit", [0, 1, 4, 5])
def test_an_overflow_stays_in_its_branch(culprit: int) -> None:
    """2^24 times a gradient of about 0.01 is more than fp16 holds, 2^13 times it is not."""
    stream, scales = scaled_stream(6)
    scales.scales[culprit] = 2.0**24
    x = noise().requires_grad_()
    found = backward(stream, x, 0.01 * signs())
    assert (scales.overflowed > 0).tolist() == [i == culprit for i in range(6)]
    assert [bool(gradient.isfinite().all()) for gradient in found] == [
        i != culprit for i in range(6)
    ]
    assert x.grad.isfinite().all()
    scales.update()
    expected = torch.tensor([2**23.5 if i == culprit else 2**13.001 for i in range(6)])
    torch.testing.assert_close(scales.scales, expected, rtol=2**-23, atol=0)


def test_a_flag_stays_up_over_clean_micro_batches() -> None:
    stream, scales = scaled_stream(2)
    (stream(noise()) * LARGEST).sum().backward()
    (stream(noise()) * 1e-3).sum().backward()
    assert (scales.overflowed > 0).all()


@pytest.mark.parametrize("begun_at", [HIGHEST, INITIAL])
def test_a_branch_recovers_until_its_scale_is_the_lowest(begun_at: int) -> None:
    """However long that takes: a scale is divided once in a window."""
    scales = BranchScales(2, 1, CPU)
    scales.scales.fill_(2.0 ** (begun_at / 1000))
    n_divisions = (begun_at - LOWEST) // DIVISION
    for update in range(1, n_divisions * WINDOW + 10):
        scales.overflowed[1] = 1
        scales.update()
        assert scales.can_recover() == (update <= 1 + (n_divisions - 1) * WINDOW), update
    assert scales.scales[1] == 2.0 ** (LOWEST / 1000)
    scales.update()
    assert not scales.can_recover()  # nothing overflowed


@pytest.mark.parametrize("outsider", [torch.nan, torch.inf])
def test_what_is_not_finite_outside_branches_flags_none(outsider: float) -> None:
    stream, scales = scaled_stream(4)
    x = noise().requires_grad_()
    gradient = 0.01 * signs()
    gradient[0, 3, 5] = outsider
    found = backward(stream, x, gradient)
    assert not scales.overflowed.any()
    assert torch.cat(found).isfinite().all()
    assert not x.grad[0, 3, 5].isfinite()  # the identity path hides nothing


def test_gradients_come_out_as_of_plain_autocast() -> None:
    """On a power of two the scaling rounds nothing; plain fp16's subnormal numbers are left.

    Of a quarter's gradient hardly any are; of a tenth's enough that processors differ in them.
    """
    x, x_plain = noise().requires_grad_(), noise().requires_grad_()
    stream, scales = scaled_stream(6)
    scales.scales.copy_(2.0 ** torch.arange(7, 13))
    plain = Stream(6, damping=1.0)
    with torch.autocast("cpu", torch.float16):
        y_plain = plain(x_plain)
    (y_plain * 0.25 * signs()).sum().backward()
    found = backward(stream, x, 0.25 * signs())
    assert {p.grad.dtype for p in stream.parameters()} == {torch.float32}
    assert not scales.overflowed.any()
    assert torch.equal(stream(x), y_plain)
    assert worst_error(found, gradients(plain)) < 1e-5  # a fiftieth of a rounding to fp16
    torch.testing.assert_close(x.grad, x_plain.grad, rtol=0, atol=1e-4)


def test_backward_twice_accumulates_what_backward_once_gives() -> None:
    once, twice = (scaled_stream(4)[0] for _ in range(2))
    losses = [
        [(stream(noise(seed)) * 0.1 * signs()).sum() for seed in (3, 4)] for stream in (once, twice)
    ]
    sum(losses[0]).backward()
    for loss in losses[1]:
        loss.backward()
    torch.testing.assert_close(gradients(twice), gradients(once), rtol=0, atol=0)


def test_recomputed_branches_have_the_same_gradients() -> None:
    (stream, scales), x = scaled_stream(6), noise()
    kept = backward(stream, x, 0.1 * signs())
    recomputed = backward(stream, x, 0.1 * signs(), is_recomputed=True)
    torch.testing.assert_close(recomputed, kept, rtol=0, atol=0)
    scales.scales[2] = 2.0**24
    backward(stream, x, 0.1 * signs(), is_recomputed=True)
    assert (scales.overflowed > 0).tolist() == [i == 2 for i in range(6)]


def test_a_scale_that_moves_before_backward_is_told() -> None:
    stream, scales = scaled_stream(2)
    loss = stream(noise()).sum()
    scales.update()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_state_keys_and_parameters_stay() -> None:
    plain, (stream, _) = Stream(4, damping=1.0), scaled_stream(4)
    torch.testing.assert_close(stream.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert {p.dtype for p in stream.parameters()} == {torch.float32}


@torch.no_grad()
def test_a_deep_copy_computes_the_same() -> None:
    stream, scales = scaled_stream(4)
    expected = stream(noise())
    twin = copy.deepcopy(stream)
    scales.update()
    assert expected.dtype == torch.float32
    assert torch.equal(twin(noise()), expected)


def test_scaling_twice_is_refused() -> None:
    stream, _ = scaled_stream(2)
    fresh = MlpBranch(D)
    with pytest.raises(
        ValueError, match="2 of 3 branches have a gradient scale already: ScaledAttentionBranch"
    ):
        scale_gradients([fresh, *stream.branches], 1, CPU)
    assert type(fresh) is MlpBranch


def transformer() -> Transformer:
    recipe = load_recipe("transformer/tiny", [])
    assert isinstance(recipe, TransformerRecipe)
    torch.manual_seed(2)
    model = build_transformer(recipe.model, 300)
    for head in (model.text_head, model.image_head):  # fresh heads are zero and pass no gradient on
        nn.init.normal_(head.weight, std=0.1)
    return model


def tokens(model: Transformer) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    text = torch.randint(300, (2, model.text_len), generator=generator)
    text[0, 5:] = text[1, -1:] = -1
    return text, torch.randint(model.image_vocab_size, (2, model.image_len), generator=generator)


def output_dtypes(model: Transformer) -> dict[str, torch.dtype]:
    """Note, from now on, in what its linear and LayerNorm modules hand back their results."""
    found: dict[str, torch.dtype] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.LayerNorm):
            module.register_forward_hook(lambda _, __, y, name=name: found.update({name: y.dtype}))
    return found


def matrices_of_branches(model: Transformer) -> set[str]:
    return {
        name
        for name, module in model.named_modules()
        if "blocks" in name and isinstance(module, nn.Linear)
    }


def test_transformer_trains_in_fp16_inside_branches_alone() -> None:
    exact, model = transformer(), transformer()
    scales = scale_gradients(model.half_precision_modules(), 1, CPU)
    text, image = tokens(model)
    dtypes = output_dtypes(model)
    for each in (exact, model):
        loss = text_image_cross_entropy(*each(text, image), text_tokens=text, image_tokens=image)
        loss.backward()
    assert {
        name for name, dtype in dtypes.items() if dtype == torch.float16
    } == matrices_of_branches(model)
    assert not scales.overflowed.any()
    found = [
        torch.cat([p.grad.flatten() for p in branch.parameters()])
        for branch in model.half_precision_modules()
    ]
    expected = [
        torch.cat([p.grad.flatten() for p in branch.parameters()])
        for branch in exact.half_precision_modules()
    ]
    assert 1e-5 < worst_error(found, expected) < 0.01


@torch.inference_mode()
def test_transformer_that_trains_in_fp16_draws_previews_in_fp32() -> None:
    model, plain = transformer(), transformer()
    scale_gradients(model.half_precision_modules(), 1, CPU)
    text, _ = tokens(model)
    uniforms = candidate_uniforms(0, "a caption", numbers=[0, 1], n_tokens=model.image_len)
    drawn = [Sampler(each, SamplingSettings()).sample(text, uniforms) for each in (model, plain)]
    assert torch.equal(*drawn)


@torch.no_grad()
def test_branches_hand_back_fp32() -> None:
    branch = AttentionBranch(D, n_heads=2)
    scale_gradients([branch], 1, CPU)
    assert branch(noise(), ATTEND).dtype == torch.float32
