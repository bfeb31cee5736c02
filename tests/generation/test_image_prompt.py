"""Pictures to begin from.

Cut and encoded as for validation, kept where asked, refused where that makes no sense.
"""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dalle_cli.data.augment import centre_crop
from dalle_cli.errors import UsageError
from dalle_cli.generation.image_prompt import (
    Box,
    ImagePrompt,
    box_mask,
    keep_tokens,
    keep_top_rows,
    lower_rows_mask,
)
from dalle_cli.models.dvae import DiscreteVAE

W = 4


@pytest.fixture(scope="module")
def dvae() -> DiscreteVAE:
    torch.manual_seed(0)
    dvae = DiscreteVAE(32, 64, n_hidden=8, n_init=4, n_groups=4, blocks_per_group=1)
    for matrix in dvae.matrices():
        torch.nn.init.normal_(matrix, std=0.4)
    return dvae.requires_grad_(False)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """No square, and larger than the dVAE's."""
    patches = np.random.default_rng(0).integers(256, size=(5, 7, 3), dtype=np.uint8)
    Image.fromarray(patches.repeat(10, axis=0).repeat(10, axis=1)).save(tmp_path / "parrot.png")
    return tmp_path / "parrot.png"


@pytest.fixture
def tokens(picture: Path, dvae: DiscreteVAE) -> Tensor:
    """All tokens of the picture."""
    square = centre_crop(Image.open(picture), 32)
    return dvae.image_tokens(torch.from_numpy(square / 255).float().permute(2, 0, 1)[None])[0]


@pytest.mark.parametrize("n_rows", [1, 2, 3])
def test_top_rows_are_kept(n_rows: int, picture: Path, tokens: Tensor, dvae: DiscreteVAE) -> None:
    kept = keep_tokens(ImagePrompt(picture, n_rows), dvae)
    assert kept.tokens.dtype == torch.int64 and len(tokens.unique()) > 3
    assert kept.tokens.tolist() == [*tokens[: n_rows * W].tolist(), *[-1] * ((W - n_rows) * W)]


def test_all_but_a_box_is_kept(picture: Path, tokens: Tensor, dvae: DiscreteVAE) -> None:
    kept = keep_tokens(ImagePrompt(picture, redraw=Box(1, 2, 3, 1)), dvae).tokens
    expected = [
        -1 if i // W in (1, 2, 3) and i % W == 2 else int(token) for i, token in enumerate(tokens)
    ]
    assert kept.tolist() == expected


def test_record_tells_the_picture_by_name_and_content_and_what_was_kept(
    picture: Path, dvae: DiscreteVAE
) -> None:
    source = {
        "image": "parrot.png",
        "image_sha256": hashlib.sha256(picture.read_bytes()).hexdigest(),
    }
    assert keep_tokens(ImagePrompt(picture, 3), dvae).record == {**source, "keep_rows": 3}
    assert keep_tokens(ImagePrompt(picture), dvae).record == {**source, "keep_rows": 1}
    assert keep_tokens(ImagePrompt(picture, redraw=Box(0, 1, 2, 3)), dvae).record == {
        **source,
        "redraw": [0, 1, 2, 3],
    }


@pytest.mark.parametrize(("side", "n_rows"), [(16, 1), (32, 1), (64, 3), (128, 7), (256, 15)])
def test_fifteen_of_thirty_two_rows_are_kept_by_default(
    side: int, n_rows: int, picture: Path
) -> None:
    dvae = DiscreteVAE(side, 4, n_hidden=4, n_init=4, n_groups=4, blocks_per_group=1)
    assert int((keep_tokens(ImagePrompt(picture), dvae).tokens >= 0).sum()) == n_rows * side // 8


@pytest.mark.parametrize("n_rows", [None, 1, 3])
def test_picture_in_memory_is_kept_like_its_file(
    n_rows: int | None, picture: Path, dvae: DiscreteVAE
) -> None:
    from_file = keep_tokens(ImagePrompt(picture, n_rows), dvae).tokens
    assert torch.equal(keep_top_rows(Image.open(picture), n_rows, dvae), from_file)


@pytest.mark.parametrize("n_rows", [0, W])
def test_rows_of_a_picture_in_memory_are_looked_at(n_rows: int, dvae: DiscreteVAE) -> None:
    with pytest.raises(UsageError, match=f"can't keep {n_rows} of {W} rows"):
        keep_top_rows(Image.new("RGB", (32, 32)), n_rows, dvae)


@pytest.mark.parametrize("n_rows", range(-1, W + 2))
def test_rows_are_refused_where_nothing_would_be_kept_or_drawn(n_rows: int) -> None:
    if 0 < n_rows < W:
        assert lower_rows_mask(n_rows, W).tolist() == [[row >= n_rows] * W for row in range(W)]
    else:
        with pytest.raises(UsageError, match=f"can't keep {n_rows} of {W} rows") as told:
            lower_rows_mask(n_rows, W)
        assert told.value.hint == "keep 1 to 3 rows"


@pytest.mark.parametrize("box", [Box(0, 0, 4, 4), Box(3, 3, 1, 1), Box(1, 0, 2, 3)])
def test_boxes_inside_the_grid_are_marked(box: Box) -> None:
    row, column, n_rows, n_columns = box
    expected = [
        [row <= i < row + n_rows and column <= j < column + n_columns for j in range(W)]
        for i in range(W)
    ]
    assert box_mask(box, W).tolist() == expected


@pytest.mark.parametrize(
    "box",
    [
        Box(0, 0, 0, 1),
        Box(0, 0, 1, 0),
        Box(4, 0, 1, 1),
        Box(0, 4, 1, 1),
        Box(2, 0, 3, 1),
        Box(0, 3, 4, 2),
    ],
)
def test_boxes_that_are_empty_or_reach_out_of_the_grid_are_refused(box: Box) -> None:
    with pytest.raises(
        UsageError, match="no such box to redraw: " + ",".join(map(str, box))
    ) as told:
        box_mask(box, W)
    assert "there are 4x4 tokens, counted from 0: 2,0,2,4 is the lower half" in told.value.hint


def test_rows_and_boxes_are_looked_at_before_the_picture(tmp_path: Path, dvae: DiscreteVAE) -> None:
    for prompt in (
        ImagePrompt(tmp_path / "absent", 9),
        ImagePrompt(tmp_path / "absent", redraw=Box(9, 9, 9, 9)),
    ):
        with pytest.raises(UsageError, match=r"can't keep 9|no such box"):
            keep_tokens(prompt, dvae)


@pytest.mark.parametrize("content", [None, b"", b"years of work"])
def test_picture_that_cannot_be_read_is_told(
    content: bytes | None, tmp_path: Path, dvae: DiscreteVAE
) -> None:
    if content is not None:
        (tmp_path / "thesis.png").write_bytes(content)
    with pytest.raises(UsageError, match=r"cannot (read|use) the picture .*thesis\.png: "):
        keep_tokens(ImagePrompt(tmp_path / "thesis.png"), dvae)


def test_text_of_a_file_name_that_a_manifest_cannot_hold_is_replaced(
    picture: Path, dvae: DiscreteVAE
) -> None:
    hostile = picture.rename(picture.with_name("a\udcff\x1b[31m.png"))
    assert keep_tokens(ImagePrompt(hostile, 1), dvae).record["image"] == "a\ufffd\ufffd[31m.png"
