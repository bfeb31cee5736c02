"""The masks against four nested loops and the counts of the specification."""

import pytest
import torch

from dalle_cli.models.attention_masks import (
    attention_mask,
    causal_padding_mask,
    convolution_offsets,
    image_mask,
    layer_kinds,
)


def allowed_by_hand(kind, r, c, qr, qc, width, kernel):
    """May the image slot (r, c) see the one at (qr, qc)? Straight from the paper's words."""
    here, there = r * width + c, qr * width + qc
    if there > here:
        return False
    if kind == "full":
        return True
    if kind == "row":
        return here - there <= width
    if kind == "column":
        return qc == c
    half = kernel // 2
    return any(
        here - there == a * width + b for a in range(half + 1) for b in range(-half, half + 1)
    )


@pytest.mark.parametrize("kind", ["row", "column", "convolutional", "full"])
@pytest.mark.parametrize(
    ("text_len", "width", "kernel"), [(3, 4, 3), (1, 5, 5), (6, 6, 11), (2, 2, 1)]
)
def test_mask_matches_four_nested_loops(kind, text_len, width, kernel):
    size = text_len + width**2
    expected = torch.zeros(size, size, dtype=torch.bool)
    for query in range(size):
        for key in range(text_len):
            expected[query, key] = query >= text_len or key <= query
    for r in range(width):
        for c in range(width):
            for qr in range(width):
                for qc in range(width):
                    query, key = text_len + r * width + c, text_len + qr * width + qc
                    expected[query, key] = allowed_by_hand(kind, r, c, qr, qc, width, kernel)
    assert torch.equal(
        attention_mask(kind, text_len, grid_size=width, kernel_size=kernel), expected
    )


@pytest.mark.parametrize(
    ("width", "kernel", "counts"),
    [
        (4, 3, {"row": 70, "column": 40, "convolutional": 67, "full": 136}),
        (32, 11, {"row": 33_264, "column": 16_896, "convolutional": 57_169, "full": 524_800}),
    ],
)
def test_image_entries_match_the_published_counts(width, kernel, counts):
    assert {
        kind: int(image_mask(kind, width, kernel_size=kernel).sum()) for kind in counts
    } == counts


def test_small_kernel_offsets_wrap_in_raster_order():
    assert convolution_offsets(grid_size=4, kernel_size=3) == [0, 1, 3, 4, 5]


def test_even_kernel_is_refused():
    with pytest.raises(ValueError, match="odd size: 4"):
        convolution_offsets(grid_size=4, kernel_size=4)


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'diagonal'"):
        image_mask("diagonal", 4)


def test_layers_of_the_paper():
    kinds = layer_kinds(64)
    assert [i + 1 for i, kind in enumerate(kinds) if kind == "column"] == list(range(2, 63, 4))
    assert (kinds.count("row"), kinds.count("column"), kinds[-1]) == (47, 16, "convolutional")
    assert kinds.count("convolutional") == 1


def test_shallow_models_keep_the_rule_and_end_convolutional():
    assert layer_kinds(1) == ["convolutional"]
    assert layer_kinds(4) == ["row", "column", "row", "convolutional"]


def test_padding_is_seen_by_itself_alone_and_the_rest_by_what_follows() -> None:
    is_visible = torch.tensor([[True, True, False, True], [False, True, True, False]])
    mask = causal_padding_mask(is_visible)
    assert mask.shape == (2, 1, 4, 4)
    for b in range(2):
        for query in range(4):
            for key in range(4):
                seen = key == query or (key < query and bool(is_visible[b, key]))
                assert bool(mask[b, 0, query, key]) == seen
