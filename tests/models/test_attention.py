"""Attention against a softmax written with loops, whole and slot by slot."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from dalle_cli.models.attention import Attention, attend

B, S, D, H = 2, 7, 12, 3


@pytest.fixture(autouse=True, params=["plain products", "fused kernel"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every claim holds for both ways to compute."""
    if request.param == "fused kernel":
        monkeypatch.setattr("dalle_cli.models.attention.SHORT", 0)


@pytest.fixture
def attention() -> Attention:
    torch.manual_seed(0)
    attention = Attention(D, H)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return attention.requires_grad_(False)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(B, S, D, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def mask() -> Tensor:
    """Causal with holes; every slot may attend to itself."""
    holes = torch.rand(S, S, generator=torch.Generator().manual_seed(2)) < 0.6
    return (holes | torch.eye(S, dtype=torch.bool)).tril()


def attend_by_hand(attention: Attention, x: Tensor, mask: Tensor) -> Tensor:
    """One query, one head and one key at a time."""
    width = D // H
    query, key, value = (p(x) for p in (attention.query, attention.key, attention.value))
    merged = torch.zeros_like(x)
    for b in range(B):
        for head in range(H):
            part = slice(head * width, (head + 1) * width)
            for s in range(S):
                seen = [t for t in range(S) if mask[s, t]]
                scores = [
                    float(query[b, s, part] @ key[b, t, part]) / math.sqrt(width) for t in seen
                ]
                weights = [math.exp(score - max(scores)) for score in scores]
                for weight, t in zip(weights, seen, strict=True):
                    merged[b, s, part] += weight / sum(weights) * value[b, t, part]
    return attention.output(merged)


def test_attention_matches_an_explicit_softmax(
    attention: Attention, x: Tensor, mask: Tensor
) -> None:
    torch.testing.assert_close(
        attention(x, partial(attend, mask=mask)),
        attend_by_hand(attention, x, mask),
        rtol=1e-5,
        atol=1e-5,
    )


def test_no_mask_is_a_mask_that_allows_everything() -> None:
    query, key, value = torch.randn(3, B, H, S, D // H, generator=torch.Generator().manual_seed(3))
    everywhere = torch.ones(S, S, dtype=torch.bool)
    torch.testing.assert_close(
        attend(query, key, value, mask=None), attend(query, key, value, mask=everywhere)
    )


def test_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="10 by 4"):
        Attention(10, 4)
