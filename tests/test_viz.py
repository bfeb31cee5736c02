"""Grids: every picture where it belongs, captions inside the sheet."""

import numpy as np
import pytest
from PIL import Image

from dalle_cli.viz import GAP, MIN_TILE, TEXT_HEIGHT, captioned_rows, enlarge, grid, labelled_grid


def flat(level: int, side: int = MIN_TILE) -> Image.Image:
    return Image.new("RGB", (side, side), (level, 0, 0))


def test_small_pictures_are_enlarged_by_a_whole_number_pixel_by_pixel() -> None:
    pixels = np.random.default_rng(0).integers(256, size=(7, 9, 3), dtype=np.uint8)
    large = np.asarray(enlarge(Image.fromarray(pixels), at_least=20))
    assert np.array_equal(large, pixels.repeat(3, axis=0).repeat(3, axis=1))


def test_large_pictures_are_left_alone() -> None:
    picture = flat(1, MIN_TILE + 1)
    assert enlarge(picture) is picture


def test_grid_holds_every_picture_in_reading_order() -> None:
    sheet = np.asarray(grid([flat(10 * i) for i in range(5)], columns=3))
    step = MIN_TILE + GAP
    assert sheet.shape == (2 * step + GAP, 3 * step + GAP, 3)
    for i in range(5):
        top, left = GAP + i // 3 * step, GAP + i % 3 * step
        tile = sheet[top : top + MIN_TILE, left : left + MIN_TILE]
        assert (tile == (10 * i, 0, 0)).all()
    assert (sheet[GAP + step :, GAP + 2 * step :] == 255).all()


def test_caption_is_written_above_its_row() -> None:
    sheet = np.asarray(labelled_grid([("a red circle", [flat(0)] * 3), ("", [flat(9)])]))
    assert sheet.shape[0] == 2 * (MIN_TILE + GAP) + TEXT_HEIGHT + GAP
    assert (sheet[GAP : GAP + TEXT_HEIGHT] < 128).any()
    first, second = GAP + TEXT_HEIGHT, GAP + TEXT_HEIGHT + MIN_TILE + GAP
    assert (sheet[first : first + MIN_TILE, GAP : GAP + MIN_TILE] == 0).all()
    assert (sheet[second : second + MIN_TILE, GAP : GAP + MIN_TILE] == (9, 0, 0)).all()


@pytest.mark.parametrize("caption", ["a red circle on the left of a blue square " * 20, "W" * 500, "猫" * 100])
def test_long_captions_are_cut_to_the_sheet(caption: str) -> None:
    sheet = np.asarray(labelled_grid([(caption, [flat(0)])]))
    line = sheet[:TEXT_HEIGHT]
    assert (line < 128).any()
    assert (line[:, -GAP + 1 :] == 255).all()


def test_captions_stand_over_the_first_row_of_their_pictures() -> None:
    pictures = [Image.new("L", (1, 1), level) for level in range(12)]
    rows = captioned_rows([("a\x1bb", pictures[:10]), ("c", pictures[10:])])
    assert rows == [("a\ufffdb", pictures[:8]), ("", pictures[8:10]), ("c", pictures[10:])]
