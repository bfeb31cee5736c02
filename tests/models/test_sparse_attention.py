"""Sparse attention against all pairs under the mask: values and gradients, kinds, odd shapes."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from dalle_cli.models import flex_attention
from dalle_cli.models.attention_masks import attention_mask
from dalle_cli.models.flex_attention import FlexAttention
from dalle_cli.models.sparse_attention import SparseAttention

KINDS = ["row", "column", "convolutional", "full"]
SHAPES = [
    (5, 4, 3),
    (7, 6, 5),
    (16, 8, 11),
    (1, 5, 11),
    (3, 1, 3),
    (9, 2, 3),
]  # text slots, grid, kernel


def streams(text_len: int, grid_size: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Queries, keys, values, and a gradient by the output."""
    generator = torch.Generator().manual_seed(0)
    n_slots = text_len + grid_size**2
    drawn = (torch.randn(2, 3, n_slots, 8, generator=generator) for _ in range(4))
    return [tensor.to(dtype).requires_grad_() for tensor in drawn]


def mask_of(kind: str, text_len: int, grid_size: int, kernel_size: int) -> Tensor:
    return attention_mask(kind, text_len, grid_size=grid_size, kernel_size=kernel_size)


def by_all_pairs(mask: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=3) @ value


def outcome(attend: object, *inputs: Tensor) -> list[Tensor]:
    *operands, gradient = inputs
    output = attend(*operands)
    return [output.detach(), *torch.autograd.grad(output, operands, gradient)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_sparse_attention_equals_all_pairs_under_the_mask(
    kind: str, shape: tuple[int, int, int]
) -> None:
    text_len, grid_size, kernel_size = shape
    mask = mask_of(kind, *shape)
    inputs = streams(text_len, grid_size)
    exact = outcome(
        lambda *operands: by_all_pairs(mask, *operands),
        *(x.detach().double().requires_grad_() for x in inputs),
    )
    found = outcome(SparseAttention(kind, text_len, grid_size, kernel_size), *inputs)
    for left, right in zip(found, exact, strict=True):
        torch.testing.assert_close(left.double(), right, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spread", [1, 4])
def test_sparse_attention_in_bf16_is_as_near_as_the_dense_kernel(kind: str, spread: int) -> None:
    """Scores of a standard deviation of 4 are off by percents if they are rounded to bf16."""
    shape = (16, 8, 11)
    mask = mask_of(kind, *shape)
    query, *others = streams(16, 8)
    inputs = [(query.detach() * spread).requires_grad_(), *others]
    exact = outcome(lambda *operands: by_all_pairs(mask, *operands), *inputs)
    rough = [x.detach().bfloat16().requires_grad_() for x in inputs]
    sparse = outcome(SparseAttention(kind, *shape), *rough)
    dense = outcome(
        lambda *operands: F.scaled_dot_product_attention(*operands, attn_mask=mask), *rough
    )
    for found, other, expected in zip(sparse, dense, exact, strict=True):
        assert found.dtype == torch.bfloat16
        assert float((found - expected).norm()) < 1.5 * float((other - expected).norm())


@pytest.mark.parametrize("kind", KINDS)
def test_large_scores_overflow_nowhere(kind: str) -> None:
    query, key, value, gradient = streams(7, 6)
    mask = mask_of(kind, 7, 6, 5)
    found = outcome(
        SparseAttention(kind, 7, 6, 5),
        *(x.detach().requires_grad_() for x in (100 * query, key, value, gradient)),
    )
    exact = outcome(
        lambda *o: by_all_pairs(mask, *o),
        *((100 * query).detach().requires_grad_(), key, value, gradient),
    )
    for left, right in zip(found, exact, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings(
    "ignore:flex_attention called without torch.compile", "ignore:`torch.jit.script"
)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(5, 4, 3), (16, 8, 11)])
def test_flex_attention_equals_all_pairs_under_the_mask(
    kind: str, shape: tuple[int, int, int]
) -> None:
    """As it is written: compiled, it takes a GPU."""
    mask = mask_of(kind, *shape)
    operands = [x.detach() for x in streams(*shape[:2])[:3]]
    found = FlexAttention(kind, *shape, torch.device("cpu"))(*operands)
    torch.testing.assert_close(found, by_all_pairs(mask, *operands), rtol=1e-5, atol=3e-6)


@pytest.mark.thorough
def test_flex_attention_is_compiled_for_every_shape_of_a_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More than torch's own limit, beyond which it would compute all pairs without a word."""
    counter, compile_by = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", partial(compile_by, backend=counter))
    flex_attention._compiled.cache_clear()
    monkeypatch.setattr(flex_attention, "flex_attention", flex_attention._compiled())
    flex_attention._compiled.cache_clear()
    torch._dynamo.reset()

    n_sizes = 2 * torch._dynamo.config.recompile_limit
    attention = {kind: FlexAttention(kind, 5, 4, 3, torch.device("cpu")) for kind in KINDS[:2]}
    for n in range(1, n_sizes + 1):
        for attend in attention.values():
            operands = torch.randn(3, n, 2, 21, 16)
            assert attend(*operands).shape == (n, 2, 21, 16)
    assert counter.frame_count == n_sizes, "rows and columns have the same graphs"


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_flex_attention_on_a_gpu_equals_all_pairs_under_the_mask(kind: str) -> None:
    device, shape = torch.device("cuda"), (256, 32, 11)
    mask = mask_of(kind, *shape).to(device)
    inputs = [x.detach().repeat(1, 1, 1, 8).to(device).requires_grad_() for x in streams(256, 32)]
    exact = outcome(lambda *operands: by_all_pairs(mask, *operands), *inputs)
    for left, right in zip(
        outcome(FlexAttention(kind, *shape, device), *inputs), exact, strict=True
    ):
        torch.testing.assert_close(left, right, rtol=2e-3, atol=2e-3)
