"""Grids: every picture where it belongs, captions inside the sheet."""

import io
import re

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from dalle_cli.viz import (
    CAPTION_WIDTH,
    GAP,
    MIN_TILE,
    PREVIEW_SIDE,
    TEXT_HEIGHT,
    captioned_rows,
    enlarge,
    grid,
    half_blocks,
    labelled_grid,
    square_tile,
)


def flat(level: int, side: int = MIN_TILE) -> Image.Image:
    return Image.new("RGB", (side, side), (level, 0, 0))


def test_small_pictures_are_enlarged_by_a_whole_number_pixel_by_pixel() -> None:
    pixels = np.random.default_rng(0).integers(256, size=(7, 9, 3), dtype=np.uint8)
    large = np.asarray(enlarge(Image.fromarray(pixels), at_least=20))
    assert np.array_equal(large, pixels.repeat(3, axis=0).repeat(3, axis=1))


def test_large_pictures_are_left_alone() -> None:
    picture = flat(1, MIN_TILE + 1)
    assert enlarge(picture) is picture


def test_tile_is_a_square_whatever_the_picture() -> None:
    small = np.asarray(square_tile(Image.new("RGB", (20, 10), (9, 0, 0)), 64))
    assert small.shape == (64, 64, 3)
    assert (small[17:47, 2:62] == (9, 0, 0)).all() and (small[:17] == 255).all()

    wide = Image.new("RGB", (640, 320), (9, 0, 0))
    assert (np.asarray(square_tile(wide, 64))[16:48] == (9, 0, 0)).all()
    assert wide.size == (640, 320)
    assert (np.asarray(square_tile(None, 8)) == 255).all()


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


@pytest.mark.parametrize(
    "caption", ["a red circle on the left of a blue square " * 20, "W" * 500, "猫" * 100]
)
def test_long_captions_are_cut_to_the_sheet(caption: str) -> None:
    sheet = np.asarray(labelled_grid([(caption, [flat(0)])]))
    line = sheet[:TEXT_HEIGHT]
    assert (line < 128).any()
    assert (line[:, -GAP + 1 :] == 255).all()


def test_narrow_sheet_is_widened_for_its_caption_within_reason() -> None:
    widths = [labelled_grid([("a word " * n, [flat(0, 10)])]).width for n in (0, 1, 5, 500, 50_000)]
    assert widths[0] == widths[1] == 100 + 2 * GAP
    assert widths[1] < widths[2] < widths[3] == widths[4] == CAPTION_WIDTH + 2 * GAP


def test_headings_stand_over_their_columns() -> None:
    sheet = np.asarray(labelled_grid([("", [flat(0)] * 2)], columns=("left", "right " * 50)))
    plain = np.asarray(labelled_grid([("", [flat(0)] * 2)]))
    assert np.array_equal(sheet[TEXT_HEIGHT + GAP :], plain[GAP:])
    for left in (GAP, GAP + MIN_TILE + GAP):
        assert (sheet[GAP:TEXT_HEIGHT, left : left + MIN_TILE] < 128).any()
    assert (sheet[:TEXT_HEIGHT, GAP + MIN_TILE : GAP + MIN_TILE + GAP] == 255).all()


def test_captions_stand_over_the_first_row_of_their_pictures() -> None:
    pictures = [Image.new("L", (1, 1), level) for level in range(12)]
    rows = captioned_rows([("a\x1bb", pictures[:10]), ("c", pictures[10:])])
    assert rows == [("a\ufffdb", pictures[:8]), ("", pictures[8:10]), ("c", pictures[10:])]


def pixels_shown(pictures: list[Image.Image], n_columns: int) -> np.ndarray:
    """Read back the pixels that a terminal shows, without gaps: [2 * lines, characters, 3]."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, color_system="truecolor", width=n_columns)
    console.print(half_blocks(pictures, n_columns))
    lines = stream.getvalue().splitlines()
    assert all(len(re.sub("\x1b.*?m", "", line)) <= n_columns for line in lines)
    code = re.compile("\x1b\\[38;2;(\\d+);(\\d+);(\\d+);48;2;(\\d+);(\\d+);(\\d+)m(▀+)")
    rows = []
    for line in lines:
        pairs = [list(map(int, found[:6])) for found in code.findall(line) for _ in found[6]]
        rows += [[pair[:3] for pair in pairs], [pair[3:] for pair in pairs]]
    return np.array(rows)


def noise(seed: int, side: int = PREVIEW_SIDE) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(256, size=(side, side, 3), dtype=np.uint8)
    )


def test_half_blocks_show_every_pixel_of_small_pictures_side_by_side() -> None:
    pictures = [noise(0), noise(1), noise(2)]
    shown = pixels_shown(pictures, 3 * PREVIEW_SIDE + 2)
    assert np.array_equal(
        shown, np.concatenate([np.asarray(picture) for picture in pictures], axis=1)
    )


def test_half_blocks_show_large_pictures_by_the_means_of_their_parts() -> None:
    shown = pixels_shown([noise(0, 4 * PREVIEW_SIDE)], 80)
    means = (
        np.asarray(noise(0, 4 * PREVIEW_SIDE))
        .reshape(PREVIEW_SIDE, 4, PREVIEW_SIDE, 4, 3)
        .mean(axis=(1, 3))
    )
    assert shown.shape == means.shape and np.abs(shown - means).max() <= 1


@pytest.mark.parametrize(
    ("n_columns", "shape"),
    [(2, (2, 2)), (9, (8, 8)), (48, (24, 24)), (49, (24, 48)), (80, (24, 72))],
)
def test_half_blocks_show_as_many_pictures_as_fit(n_columns: int, shape: tuple[int, int]) -> None:
    assert pixels_shown([noise(i) for i in range(4)], n_columns).shape == (*shape, 3)
