"""The losses against numeric integration, the specification's test values and sums by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dalle_cli import losses
from dalle_cli.losses import (
    contrastive_loss,
    kl_to_uniform,
    logit_laplace_nll,
    text_image_cross_entropy,
    token_cross_entropy,
)


def nll(x: float, mu: float, b: float) -> float:
    values = (torch.tensor(value, dtype=torch.float64) for value in (x, mu, math.log(b)))
    return float(logit_laplace_nll(*values))


def mean_of_picked(logits: Tensor, tokens: Tensor) -> float:
    """Mean of -ln p(token) over the tokens that are not -1, one at a time."""
    losses = []
    for row, targets in zip(logits.double().tolist(), tokens.tolist(), strict=True):
        for scores, token in zip(row, targets, strict=True):
            if token != -1:
                losses.append(math.log(sum(math.exp(score) for score in scores)) - scores[token])
    return sum(losses) / len(losses)


@pytest.fixture
def text_and_image() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    text_logits = 2 * torch.randn(4, 5, 7, generator=generator)
    image_logits = 2 * torch.randn(4, 6, 9, generator=generator)
    text_tokens = torch.randint(7, (4, 5), generator=generator)
    text_tokens[0, 3:] = text_tokens[1, 1:] = text_tokens[2, 0:] = -1
    return text_logits, image_logits, text_tokens, torch.randint(9, (4, 6), generator=generator)


@pytest.mark.parametrize(
    ("mu", "b"), [(0.0, 1.0), (0.7, 0.3), (-2.0, 0.5), (3.0, 1.5), (-0.4, 0.05)]
)
def test_logit_laplace_integrates_to_one_over_the_open_interval(mu: float, b: float) -> None:
    steps = 20_000
    t = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    x = t**3 * (10 - 15 * t + 6 * t**2)  # slow near both ends, where the density may be infinite
    dx = 30 * t**2 * (1 - t) ** 2 / steps
    density = (
        logit_laplace_nll(x, torch.full_like(x, mu), torch.full_like(x, math.log(b))).neg().exp()
    )
    assert float((density * dx).sum()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("x", "mu", "b", "log_density"),
    [
        (0.5, 0.0, 1.0, 0.693147),
        (0.1, 0.0, 1.0, -0.482426),
        (0.9, 0.0, 1.0, -0.482426),
        (0.3, -0.5, 0.25, 0.864603),
        (0.1, 2.0, 0.1, -37.954862),
    ],
)
def test_logit_laplace_matches_the_specified_values(
    x: float, mu: float, b: float, log_density: float
) -> None:
    assert -nll(x, mu, b) == pytest.approx(log_density, abs=1e-6)


def test_logit_laplace_is_likeliest_where_mu_is_the_logit_and_b_the_distance() -> None:
    best_mu = nll(0.3, math.log(0.3 / 0.7), 0.5)
    assert all(nll(0.3, math.log(0.3 / 0.7) + off, 0.5) > best_mu for off in (-0.1, 0.1))
    distance = 0.8
    best_b = nll(0.5, distance, distance)
    assert all(nll(0.5, distance, distance * factor) > best_b for factor in (0.9, 1.1))


def test_logit_laplace_is_per_value_and_accurate_in_fp32() -> None:
    generator = torch.Generator().manual_seed(0)
    mapped = 0.1 + 0.8 * torch.rand(2, 3, 4, 4, generator=generator)
    mu, log_scale = torch.randn(2, 2, 3, 4, 4, generator=generator)
    exact = [
        nll(x, m, math.exp(s))
        for x, m, s in zip(*(v.flatten().tolist() for v in (mapped, mu, log_scale)), strict=True)
    ]
    expected = torch.tensor(exact).view_as(mapped)
    torch.testing.assert_close(
        logit_laplace_nll(mapped, mu, log_scale), expected, rtol=1e-5, atol=1e-5
    )


def test_kl_to_uniform_matches_a_sum_over_the_codebook() -> None:
    logits = 3 * torch.randn(2, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(2, 3, 3)
    for b in range(2):
        for r in range(3):
            for c in range(3):
                weights = [math.exp(score) for score in logits[b, :, r, c].tolist()]
                shares = [weight / sum(weights) for weight in weights]
                expected[b, r, c] = sum(share * math.log(share * 5) for share in shares)
    torch.testing.assert_close(kl_to_uniform(logits), expected, rtol=1e-5, atol=1e-6)


def test_kl_to_uniform_lies_between_0_and_ln_k_and_reaches_both() -> None:
    n = 8192
    uniform = torch.full((1, n, 1, 1), 3.0)
    certain = torch.zeros(1, n, 1, 1)
    certain[0, 17] = 100.0
    assert float(kl_to_uniform(uniform)) == pytest.approx(0, abs=1e-5)
    assert float(kl_to_uniform(certain)) == pytest.approx(9.010913347, rel=1e-6)
    between = kl_to_uniform(5 * torch.randn(4, n, 2, 2, generator=torch.Generator().manual_seed(0)))
    assert between.min() > 0 and between.max() < 9.010913347


@pytest.mark.parametrize("scale", [3, 100])
def test_kl_to_uniform_has_the_gradient_of_its_definition(scale: int) -> None:
    """With probabilities too small for fp32, too."""
    logits = scale * torch.randn(2, 7, 3, 3, generator=torch.Generator().manual_seed(0))
    weights = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(1))
    own, plain = (logits.clone().requires_grad_() for _ in range(2))
    (kl_to_uniform(own) * weights).sum().backward()
    log_probs = plain.log_softmax(dim=1)
    ((log_probs.exp() * log_probs).sum(dim=1) * weights).sum().backward()
    torch.testing.assert_close(own.grad, plain.grad, rtol=1e-5, atol=1e-6)


def test_kl_to_uniform_ignores_a_shift_of_all_logits() -> None:
    logits = torch.randn(2, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(kl_to_uniform(logits + 50), kl_to_uniform(logits), rtol=0, atol=2e-5)


def test_losses_of_bf16_logits_are_computed_in_fp32() -> None:
    logits = torch.randn(2, 300, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    kl = kl_to_uniform(logits)
    assert kl.dtype == torch.float32
    torch.testing.assert_close(kl, kl_to_uniform(logits.double().float()), rtol=0, atol=0)
    rows = logits.flatten(2).transpose(1, 2)
    tokens = torch.arange(32).view(2, 16)
    loss = token_cross_entropy(rows, tokens)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(mean_of_picked(rows, tokens), rel=1e-5)
    square = rows[0, :, :16]
    assert contrastive_loss(square).dtype == torch.float32
    assert float(contrastive_loss(square)) == pytest.approx(contrastive_by_hand(square), rel=1e-5)


def test_text_and_image_losses_are_weighed_1_to_7(
    text_and_image: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    text_logits, image_logits, text_tokens, image_tokens = text_and_image
    text, image = (
        mean_of_picked(text_logits, text_tokens),
        mean_of_picked(image_logits, image_tokens),
    )
    loss = text_image_cross_entropy(
        text_logits, image_logits, text_tokens=text_tokens, image_tokens=image_tokens
    )
    assert float(loss) == pytest.approx((text + 7 * image) / 8, rel=1e-5)


@pytest.mark.parametrize("text_weight", [0.0, 0.3, 1.0])
def test_text_weight_is_the_texts_share(
    text_and_image: tuple[Tensor, Tensor, Tensor, Tensor], text_weight: float
) -> None:
    text_logits, image_logits, text_tokens, image_tokens = text_and_image
    text, image = (
        mean_of_picked(text_logits, text_tokens),
        mean_of_picked(image_logits, image_tokens),
    )
    expected = text_weight * text + (1 - text_weight) * image
    loss = text_image_cross_entropy(
        text_logits,
        image_logits,
        text_tokens=text_tokens,
        image_tokens=image_tokens,
        text_weight=text_weight,
    )
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_positions_without_a_token_get_no_gradient(
    text_and_image: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    text_logits, _, text_tokens, _ = text_and_image
    text_logits.requires_grad_()
    token_cross_entropy(text_logits, text_tokens).backward()
    has_gradient = text_logits.grad.abs().amax(dim=2) > 0
    assert torch.equal(has_gradient, text_tokens >= 0)


def test_shares_of_micro_batches_add_up_to_the_whole(
    text_and_image: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    logits, _, tokens, _ = text_and_image
    count = int((tokens >= 0).sum())
    whole = token_cross_entropy(logits, tokens)
    for size in (1, 2, 3):
        shares = [
            token_cross_entropy(x, y, count)
            for x, y in zip(logits.split(size), tokens.split(size), strict=True)
        ]
        torch.testing.assert_close(torch.stack(shares).sum(), whole, rtol=1e-6, atol=0)


def test_a_batch_of_empty_captions_has_loss_and_gradient_zero() -> None:
    logits = torch.randn(2, 3, 5, requires_grad=True)
    loss = token_cross_entropy(logits, torch.full((2, 3), -1))
    loss.backward()
    assert float(loss.detach()) == 0 and float(logits.grad.abs().max()) == 0


def contrastive_by_hand(logits: Tensor) -> float:
    """Mean over both directions of -ln of the pair's share of its line, one pair at a time."""
    scores, total = logits.double().tolist(), 0.0
    n = len(scores)
    for i in range(n):
        line = sum(math.exp(scores[i][j]) for j in range(n))
        column = sum(math.exp(scores[j][i]) for j in range(n))
        total += math.log(line) - scores[i][i] + math.log(column) - scores[i][i]
    return total / (2 * n)


@pytest.fixture
def logits_per_image() -> Tensor:
    return 3 * torch.randn(6, 6, generator=torch.Generator().manual_seed(0))


def test_contrastive_loss_of_two_pairs_is_that_on_paper() -> None:
    logits = torch.tensor([[2.0, 0.5], [-1.0, 1.5]])
    images = math.log(1 + math.exp(0.5 - 2)) + math.log(1 + math.exp(-1 - 1.5))
    texts = math.log(1 + math.exp(-1 - 2)) + math.log(1 + math.exp(0.5 - 1.5))
    assert float(contrastive_loss(logits)) == pytest.approx((images / 2 + texts / 2) / 2, rel=1e-6)


def test_contrastive_loss_matches_a_double_loop(logits_per_image: Tensor) -> None:
    assert float(contrastive_loss(logits_per_image)) == pytest.approx(
        contrastive_by_hand(logits_per_image), rel=1e-6
    )


@pytest.mark.parametrize("n", [1, 2, 16])
def test_contrastive_loss_of_a_model_that_knows_nothing_is_that_of_a_guess(n: int) -> None:
    assert float(contrastive_loss(torch.full((n, n), 7.0))) == pytest.approx(math.log(n), abs=1e-6)


def test_pictures_and_captions_are_treated_alike(logits_per_image: Tensor) -> None:
    """Exchanging them exchanges the gradients, and none of it moves all logits alike."""
    logits, exchanged = (
        logits_per_image.clone().requires_grad_(),
        logits_per_image.T.clone().requires_grad_(),
    )
    losses = contrastive_loss(logits), contrastive_loss(exchanged)
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=0)
    torch.testing.assert_close(logits.grad, exchanged.grad.T, rtol=1e-5, atol=1e-7)
    assert float(logits.grad.sum()) == pytest.approx(0, abs=1e-6)
    assert (logits.grad.diagonal() < 0).all() and (
        logits.grad - logits.grad.diag().diag() >= 0
    ).all()


@pytest.mark.parametrize("with_all_rows", [False, True])
@pytest.mark.parametrize("at_once", [1, 40, 10**6])
def test_linear_cross_entropy_equals_that_of_all_logits(
    at_once: int, with_all_rows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU with all rows, of which those that have no target weigh nothing."""
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 5, 6, generator=generator, requires_grad=True)
    weight = torch.randn(13, 6, generator=generator, requires_grad=True)
    bias = torch.randn(13, generator=generator, requires_grad=True)
    tokens = torch.tensor([[3, 12, 0, -1, -1], [7, -1, 3, 3, 9]])
    logits = features @ weight.T + bias
    tokens[0, 1], tokens[1, 3] = logits[0, 1].argmax(), logits[1, 3].argmax()
    whole = token_cross_entropy(logits, tokens, count=1)
    total, hits = losses.linear_cross_entropy(features, tokens, weight=weight, bias=bias)
    if with_all_rows:
        rows = features.flatten(0, 1)
        total, hits = losses._LinearCrossEntropy.apply(
            rows, weight, bias, tokens.flatten(), True, torch.float32
        )
    assert int(hits) == int((logits.argmax(dim=2) == tokens).sum())
    torch.testing.assert_close(total, whole, rtol=1e-6, atol=0)
    wanted = (features, weight, bias)
    for found, expected in zip(
        torch.autograd.grad(3 * total, wanted), torch.autograd.grad(3 * whole, wanted), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


class ProductSizes(TorchDispatchMode):
    """Notes the sizes of the operands of every matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: set[tuple[Any, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "mm" in func.name():
            self.sizes.add((func.name(), *(tuple(x.shape) for x in args if isinstance(x, Tensor))))
        return func(*args, **kwargs or {})


def test_linear_cross_entropy_has_products_of_few_sizes() -> None:
    """Of 64, 128 or all 150 rows, however long the captions are."""
    features = torch.randn(5, 30, 4, requires_grad=True)
    weight, bias = torch.randn(7, 4), torch.zeros(7)
    with ProductSizes() as products:
        for n_given in range(151):
            is_given = (torch.randperm(150) < n_given).view(5, 30)
            tokens = torch.randint(7, (5, 30)).where(is_given, -1)
            losses.linear_cross_entropy(features, tokens, weight=weight, bias=bias)
    assert len(products.sizes) == 4 * 3


def test_linear_cross_entropy_multiplies_in_bf16_for_its_gradients_alone() -> None:
    """Even where the token is nearly certain, and the gradient by its logit nearly zero."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(13, 64, generator=generator)
    tokens = torch.tensor([3, 12])
    features = (0.2 * weight[tokens]).requires_grad_()
    operands = (features, weight.requires_grad_(), torch.zeros(13, requires_grad=True))
    total, exact = (
        losses.linear_cross_entropy(features, tokens, weight=weight, bias=operands[2], dtype=dtype)
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert torch.equal(total[0], exact[0]) and 0 < float(total[0].detach()) < 0.01
    for found, expected in zip(
        *(torch.autograd.grad(loss, operands) for loss, _ in (total, exact)), strict=True
    ):
        assert float((found - expected).norm()) < 0.01 * float(expected.norm())


def test_linear_cross_entropy_of_nothing_is_zero() -> None:
    features, weight, bias = (
        torch.randn(1, 4, 3, requires_grad=True),
        torch.randn(5, 3),
        torch.zeros(5),
    )
    total, hits = losses.linear_cross_entropy(
        features, torch.full((1, 4), -1), weight=weight, bias=bias
    )
    total.backward()
    assert float(total.detach()) == 0 and int(hits) == 0 and not features.grad.any()


def test_linear_cross_entropy_stays_finite_for_huge_logits() -> None:
    features = torch.tensor([[1e4, -1e4]], requires_grad=True)
    total, _ = losses.linear_cross_entropy(
        features, torch.tensor([1]), weight=torch.eye(2), bias=torch.zeros(2)
    )
    total.backward()
    assert float(total.detach()) == pytest.approx(2e4) and features.grad.tolist() == [[1.0, -1.0]]
