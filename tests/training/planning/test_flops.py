"""Operations counted against loops over slots and parameters, and against the paper's sizes."""

import pytest
import torch

from dalle_cli.config import TrainedTransformerTable
from dalle_cli.loading import build_transformer
from dalle_cli.models.attention_masks import attention_mask, layer_kinds
from dalle_cli.training.planning.flops import allowed_pairs, forward_flops, train_flops

SMALL = TrainedTransformerTable(
    text_len=5,
    grid_size=4,
    image_vocab_size=13,
    n_layers=6,
    d_model=8,
    n_heads=2,
    kernel_size=3,
    text_vocab_size=11,
)
PAPER = TrainedTransformerTable(
    text_len=256, grid_size=32, image_vocab_size=8192, n_layers=64, d_model=3968, n_heads=62,
    kernel_size=11,
    text_vocab_size=16_384,
)  # fmt: skip


def flops_by_hand(model: TrainedTransformerTable) -> int:
    """Two for each weight that a slot meets, and twice for each width of each allowed pair."""
    transformer = build_transformer(model, model.text_vocab_size)
    total = 0
    for _ in range(model.text_len + transformer.image_len):
        total += 2 * sum(p.numel() for p in transformer.matrices())
    total += 2 * model.text_len * transformer.text_head.weight.numel()
    total += 2 * transformer.image_len * transformer.image_head.weight.numel()
    for kind in layer_kinds(model.n_layers):
        sizes = {"grid_size": model.grid_size, "kernel_size": model.kernel_size}
        mask = attention_mask(kind, model.text_len, **sizes)
        for query in range(len(mask)):
            for key in range(len(mask)):
                if mask[query, key]:
                    total += 2 * model.d_model + 2 * model.d_model
    return total


@pytest.mark.parametrize(
    "changes", [{}, {"n_layers": 1}, {"grid_size": 6, "kernel_size": 5}, {"text_len": 2}]
)
def test_flops_match_loops_over_slots_and_allowed_pairs(changes: dict[str, int]) -> None:
    model = SMALL.model_copy(update=changes)
    assert forward_flops(model) == flops_by_hand(model)


def test_backward_counts_twice_forward() -> None:
    assert train_flops(SMALL) == 3 * forward_flops(SMALL)


@pytest.mark.parametrize(
    ("kind", "among_image"), [("row", 33_264), ("column", 16_896), ("convolutional", 57_169)]
)
def test_pairs_at_the_papers_size_are_those_specified(kind: str, among_image: int) -> None:
    assert allowed_pairs(kind, PAPER) == 256 * 257 // 2 + 1024 * 256 + among_image


def test_paper_takes_94_tflop_for_each_image_trained() -> None:
    assert train_flops(PAPER) == pytest.approx(94.1e12, rel=1e-3)


def test_flops_are_counted_on_the_meta_device_as_well() -> None:
    with torch.device("meta"):
        found = forward_flops(SMALL)
    assert found == flops_by_hand(SMALL)
