"""JPEGs decoded at a part of their size: which, what they show, and what stays as it was."""

import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from dalle_cli.data.images import BadSample, decode_image, decode_reduced


def smooth(width: int, height: int) -> Image.Image:
    """A picture whose red grows to the right and whose green grows downwards."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)[None]
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(pixels)


def encoded(image: Image.Image, orientation: int = 1, picture_format: str = "JPEG") -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = orientation
    image.save(file, picture_format, exif=exif, quality=95)
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "scaled_side", "reduction"),
    [
        ((160, 96), 37, 1),  # of which a half has 4/3
        ((160, 96), 36, 2),
        ((96, 160), 36, 2),
        ((160, 96), 19, 2),
        ((160, 96), 18, 4),
        ((160, 96), 2, 4),
        ((163, 97), 36, 2),
    ],
)
def test_jpeg_keeps_four_pixels_for_three_of_what_it_is_scaled_to(
    size: tuple[int, int], scaled_side: int, reduction: int
) -> None:
    picture = decode_reduced(encoded(smooth(*size)), scaled_side)
    assert picture.size == size and picture.reduction == reduction
    assert picture.image.size == tuple(-(-side // reduction) for side in size)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_jpegs_are_reduced_to_the_colours_of_the_whole(mode: str) -> None:
    data = encoded(smooth(128, 96).convert(mode))
    reduced = decode_reduced(data, 30)
    assert reduced.reduction == 2 and reduced.image.mode == "RGB"
    expected = np.asarray(decode_image(data).reduce(2), int)
    assert np.abs(np.asarray(reduced.image, int) - expected).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_picture_is_upright_where_no_pixel_is_a_part(orientation: int) -> None:
    data = encoded(smooth(128, 96), orientation)
    reduced, whole = decode_reduced(data, 30), decode_image(data)
    assert reduced.reduction == 2 and reduced.size == whole.size
    expected = np.asarray(whole.reduce(2), int)
    assert np.abs(np.asarray(reduced.image, int) - expected).max() <= 4


@pytest.mark.parametrize("orientation", range(2, 9))
def test_what_is_turned_and_ends_with_a_part_of_a_pixel_stays_whole(orientation: int) -> None:
    data = encoded(smooth(129, 96), orientation)
    reduced, whole = decode_reduced(data, 30), decode_image(data)
    assert reduced.reduction == 1 and reduced.size == whole.size
    assert reduced.image.tobytes() == whole.tobytes()


@pytest.mark.parametrize("picture_format", ["PNG", "WEBP"])
def test_other_formats_stay_whole(picture_format: str) -> None:
    data = encoded(smooth(128, 96), 6, picture_format)
    reduced, whole = decode_reduced(data, 10), decode_image(data)
    assert reduced.reduction == 1 and reduced.size == whole.size == (96, 128)
    assert reduced.image.tobytes() == whole.tobytes()


def test_cut_jpeg_is_refused_when_reduced_too() -> None:
    data = encoded(smooth(128, 96))
    with pytest.raises(BadSample, match="damaged or incomplete picture"):
        decode_reduced(data[: len(data) * 2 // 3], 30)
