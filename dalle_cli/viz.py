"""Sheets of pictures: grids, with captions if there are any, and small previews for terminals."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.color import Color
from rich.style import Style
from rich.text import Text

from dalle_cli.errors import printable
from dalle_cli.models.attention_masks import Kind, image_mask

GAP = 4  # pixels between pictures
MIN_TILE = 96  # smaller pictures are enlarged, pixel by pixel, so that they can be seen
TEXT_HEIGHT = 18
FONT_SIZE = 13
CAPTION_WIDTH = 400  # pixels of a caption that a narrow sheet is widened for
ROW_PICTURES = 8
GRID_PICTURES = 256  # a sheet of more would be too large to open
PREVIEW_SIDE = 24  # columns of a picture on a terminal
MAX_CAPTION = 300  # characters; no sheet is wide enough for more

Row = tuple[str, list[Image.Image]]  # a caption, or "", and its pictures


def enlarge(picture: Image.Image, at_least: int = MIN_TILE) -> Image.Image:
    """Scale a small picture up by a whole number, without smoothing."""
    factor = math.ceil(at_least / min(picture.size))
    if factor <= 1:
        return picture
    size = (picture.width * factor, picture.height * factor)
    return picture.resize(size, Image.Resampling.NEAREST)


def square_tile(picture: Image.Image | None, side: int) -> Image.Image:
    """Fit a picture into a white square, a small one enlarged pixel by pixel; None leaves it white.

    side  in pixels
    """
    square = Image.new("RGB", (side, side), "white")
    if picture is None:
        return square
    fitting = picture.copy()
    fitting.thumbnail((side, side))
    factor = side // max(fitting.size)
    size = fitting.width * factor, fitting.height * factor
    fitting = fitting.resize(size, Image.Resampling.NEAREST)
    square.paste(fitting, ((side - fitting.width) // 2, (side - fitting.height) // 2))
    return square


def mask_pictures(grid_size: int, kernel_size: int) -> dict[str, Image.Image]:
    """Draw the image-to-image masks by kind: white where a query (down) may see a key (across)."""
    kinds: tuple[Kind, ...] = ("row", "column", "convolutional")
    masks = {kind: image_mask(kind, grid_size, kernel_size=kernel_size) for kind in kinds}
    return {kind: Image.fromarray(mask.byte().mul(255).numpy()) for kind, mask in masks.items()}


def grid(pictures: list[Image.Image], columns: int) -> Image.Image:
    """Lay out pictures of one size in rows."""
    starts = range(0, len(pictures), columns)
    return labelled_grid([("", pictures[i : i + columns]) for i in starts])


def captioned_rows(groups: Iterable[Row]) -> list[Row]:
    """Break the pictures of each caption into rows, with the caption over the first row."""
    rows = []
    for caption, pictures in groups:
        for start in range(0, len(pictures), ROW_PICTURES):
            label = printable(caption) if start == 0 else ""
            rows.append((label, pictures[start : start + ROW_PICTURES]))
    return rows


def labelled_grid(rows: list[Row], *, columns: Sequence[str] = ()) -> Image.Image:
    """Lay out rows of pictures of one size, each row under its caption.

    columns  headings of the first columns, if any
    """
    tiles = [(caption, [enlarge(picture) for picture in pictures]) for caption, pictures in rows]
    tile_width, tile_height = tiles[0][1][0].size
    heights = [tile_height + GAP + (TEXT_HEIGHT if caption else 0) for caption, _ in tiles]
    heading_height = TEXT_HEIGHT if columns else 0

    n_columns = max(len(pictures) for _, pictures in tiles)
    width = max(n_columns * (tile_width + GAP) + GAP, _caption_width(rows))
    sheet = Image.new("RGB", (width, heading_height + sum(heights) + GAP), "white")
    for column, heading in enumerate(columns):
        left = GAP + column * (tile_width + GAP)
        _write(sheet, heading, left=left, top=GAP, width=tile_width)

    top = GAP + heading_height
    for (caption, pictures), height in zip(tiles, heights, strict=True):
        if caption:
            _write(sheet, caption, left=GAP, top=top, width=sheet.width - 2 * GAP)
        picture_top = top + height - GAP - tile_height
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (GAP + column * (tile_width + GAP), picture_top))
        top += height
    return sheet


def side_by_side(sheets: list[Image.Image]) -> Image.Image:
    """Lay out sheets of any size in a row, aligned at the top."""
    size = (sum(sheet.width for sheet in sheets), max(sheet.height for sheet in sheets))
    row = Image.new("RGB", size, "white")
    left = 0
    for sheet in sheets:
        row.paste(sheet, (left, 0))
        left += sheet.width
    return row


def half_blocks(pictures: list[Image.Image], n_columns: int) -> Text:
    """Return square pictures as text, side by side, as many as fit in n_columns.

    Each character shows two pixels, one above the other.
    """
    side = max(min(PREVIEW_SIDE, n_columns) // 2 * 2, 2)
    fitting = pictures[: max((n_columns + 1) // (side + 1), 1)]
    small = [
        np.asarray(picture.convert("RGB").resize((side, side), Image.Resampling.BOX))
        for picture in fitting
    ]

    text = Text()
    for top in range(0, side, 2):
        for number, pixels in enumerate(small):
            text.append(" " if number else "")
            for above, below in zip(pixels[top], pixels[top + 1], strict=True):
                colours = [Color.from_rgb(*map(int, pixel)) for pixel in (above, below)]
                text.append("▀", Style(color=colours[0], bgcolor=colours[1]))
        text.append("\n" if top + 2 < side else "")
    return text


def _caption_width(rows: list[Row]) -> int:
    """Return the width of a sheet that the longest caption asks for, within reason."""
    longest = max((_text_width(caption[:MAX_CAPTION]) for caption, _ in rows), default=0)
    return min(math.ceil(longest), CAPTION_WIDTH) + 2 * GAP


def _text_width(text: str) -> float:
    return ImageFont.load_default(size=FONT_SIZE).getlength(text)


def _write(sheet: Image.Image, text: str, *, left: int, top: int, width: int) -> None:
    """Write a line of text, cut to a width."""
    text = text[:MAX_CAPTION]
    while text and _text_width(text) > width:
        text = text.removesuffix("…")[:-1] + "…" if len(text) > 2 else ""
    font = ImageFont.load_default(size=FONT_SIZE)
    ImageDraw.Draw(sheet).text((left, top), text, fill="black", font=font)
