"""Decoding: what is accepted comes out right; all else is a `BadSample`, never half a picture."""

import io
import random
import struct
import tracemalloc
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dalle_cli.data.images import (
    MIN_SIDE,
    TOO_LARGE,
    TOO_SMALL,
    BadSample,
    decode_image,
    to_image,
    to_tensor,
)

PAIRS = Path(__file__).parent / "bad" / "pairs"
DAMAGED = "damaged or incomplete picture"
UNKNOWN = "not a JPEG, PNG, WebP or GIF picture"


def random_pixels(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(image: Image.Image, picture_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, picture_format, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> np.ndarray:
    image = decode_image(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def png_header(width: int, height: int) -> bytes:
    """A PNG that ends where its pixels would begin: only its size can be judged."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    start = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + start + struct.pack(">I", 10) + b"IDAT"


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("control-good-1.jpg", (160, 120)),
        ("control-good-2.png", (160, 120)),
        ("jpeg-cmyk.jpg", (160, 120)),
        ("jpeg-gray.jpg", (160, 120)),
        ("jpeg-exif-rotated.jpg", (160, 120)),
        ("png-1bit.png", (160, 120)),
        ("png-16bit-gray.png", (160, 120)),
        ("png-gray-alpha.png", (160, 120)),
        ("png-rgba-transparent.png", (160, 120)),
        ("png-palette-transparent.png", (160, 120)),
        ("png-named-jpg.jpg", (160, 120)),
        ("gif-animated.gif", (120, 120)),
        ("webp-image.webp", (160, 120)),
        ("uppercase-extension.JPG", (160, 120)),
    ],
)
def test_odd_but_whole_picture_is_accepted(name: str, size: tuple[int, int]) -> None:
    image = decode_image((PAIRS / name).read_bytes())
    assert image.mode == "RGB"
    assert image.size == size


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("jpeg-truncated.jpg", DAMAGED),
        ("png-corrupt-data.png", DAMAGED),
        ("png-zero-byte.png", "empty picture file"),
        ("text-named-jpg.jpg", UNKNOWN),
        ("html-error-page.jpg", "web page, not a picture"),
        ("png-1x1.png", TOO_SMALL),
        ("png-4000x8.png", TOO_SMALL),
    ],
)
def test_unusable_picture_is_a_bad_sample_with_its_reason(name: str, reason: str) -> None:
    with pytest.raises(BadSample) as caught:
        decode_image((PAIRS / name).read_bytes())
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "size", [(8001, 8000), (10_000, 10_000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)]
)
def test_too_many_pixels_are_refused_from_the_header(size: tuple[int, int]) -> None:
    with warnings.catch_warnings(record=True) as leaked, pytest.raises(BadSample, match=TOO_LARGE):
        warnings.simplefilter("always")
        decode_image(png_header(*size))
    assert not leaked


def test_text_that_unpacks_to_a_thousand_times_its_size_spoils_nothing_else() -> None:
    """Nothing but a picture or a bad sample, and no memory for the text."""
    bomb = PngInfo()
    bomb.add_text("comment", "a" * (256 << 20), zip=True)
    data = encoded(Image.fromarray(random_pixels(40, 40)), pnginfo=bomb)
    assert len(data) < 2 << 20
    tracemalloc.start()
    try:
        with suppress(BadSample):
            decode_image(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 32 << 20


@pytest.mark.parametrize("size", [(MIN_SIDE, MIN_SIDE), (MIN_SIDE, 300)])
def test_short_side_at_the_limit_is_accepted(size: tuple[int, int]) -> None:
    assert decode_image(encoded(Image.new("RGB", size))).size == size


@pytest.mark.parametrize("size", [(MIN_SIDE - 1, 300), (300, MIN_SIDE - 1)])
def test_short_side_below_the_limit_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(BadSample, match=TOO_SMALL):
        decode_image(encoded(Image.new("RGB", size)))


@pytest.mark.parametrize(
    ("picture_format", "reason"),
    [
        ("TIFF", "TIFF, which is not read: convert it to JPEG or PNG"),
        ("BMP", "BMP, which is not read: convert it to JPEG or PNG"),
        ("PDF", "PDF, which is not read: convert it to JPEG or PNG"),
        ("PPM", UNKNOWN),
        ("ICO", UNKNOWN),
    ],
)
def test_other_formats_are_refused_by_name(picture_format: str, reason: str) -> None:
    with pytest.raises(BadSample) as caught:
        decode_image(encoded(Image.new("RGB", (32, 32)), picture_format))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("picture_format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
    ],
)
def test_cut_picture_is_refused_or_whole(picture_format: str, options: dict[str, bool]) -> None:
    whole = encoded(Image.fromarray(random_pixels(24, 24)), picture_format, **options)
    expected = decoded(whole)
    for length in range(0, len(whole), 7):
        try:
            picture = decoded(whole[:length])
        except BadSample:
            continue
        np.testing.assert_array_equal(picture, expected)
        assert length > len(whole) - 32  # only the end marker is lost


@pytest.mark.parametrize(
    "name", ["control-good-1.jpg", "control-good-2.png", "webp-image.webp", "gif-animated.gif"]
)
def test_flipped_bytes_raise_nothing_but_bad_sample(name: str) -> None:
    whole = (PAIRS / name).read_bytes()
    for seed in range(60):
        rng = random.Random(seed)
        data = bytearray(whole)
        for _ in range(3):
            data[rng.randrange(min(len(data), 400))] = rng.randrange(256)
        try:
            assert decode_image(bytes(data)).mode == "RGB"
        except BadSample as error:
            assert error.reason


# how to put upright what is stored with each EXIF orientation (EXIF 2.3, tag 0x0112)
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_undone(orientation: int) -> None:
    stored = random_pixels(20, 30)
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(
        decoded(encoded(Image.fromarray(stored), exif=exif)), UPRIGHT[orientation](stored)
    )


def test_unreadable_exif_does_not_spoil_the_picture() -> None:
    stored = random_pixels(20, 30)
    np.testing.assert_array_equal(
        decoded(encoded(Image.fromarray(stored), exif=b"Exif\0\0rubbish")), stored
    )


def test_16_bit_grey_is_scaled_over_the_whole_range() -> None:
    levels = np.arange(256 * 256, dtype=np.uint16).reshape(256, 256)
    expected = np.round(levels / 257).astype(np.uint8)
    np.testing.assert_array_equal(
        decoded(encoded(Image.fromarray(levels))), np.repeat(expected[..., None], 3, axis=2)
    )


def test_16_bit_file_is_half_bright_on_average() -> None:
    assert abs(decoded((PAIRS / "png-16bit-gray.png").read_bytes()).mean() - 127.5) < 3


def test_alpha_is_composited_on_white() -> None:
    rgba = random_pixels(20, 30, channels=4)
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    np.testing.assert_allclose(decoded(encoded(Image.fromarray(rgba))), expected, atol=1)


def test_grey_alpha_is_composited_on_white() -> None:
    grey_alpha = random_pixels(20, 30, channels=2)
    alpha = grey_alpha[..., 1] / 255
    expected = grey_alpha[..., 0] * alpha + 255 * (1 - alpha)
    picture = decoded(encoded(Image.fromarray(grey_alpha, "LA")))
    np.testing.assert_allclose(picture, np.repeat(expected[..., None], 3, axis=2), atol=1)


@pytest.mark.parametrize(
    ("picture_format", "transparency"), [("PNG", 1), ("PNG", bytes([255, 0])), ("GIF", 1)]
)
def test_transparent_palette_entry_becomes_white(
    picture_format: str, transparency: int | bytes
) -> None:
    indices = random_pixels(20, 30, channels=1) % 2
    image = Image.fromarray(indices, "P")
    image.putpalette([0, 128, 0, 255, 0, 255])  # green and magenta
    expected = np.where(indices[..., None] == 1, [255, 255, 255], [0, 128, 0])
    np.testing.assert_array_equal(
        decoded(encoded(image, picture_format, transparency=transparency)), expected
    )


def test_no_magenta_shows_through_a_transparent_palette() -> None:
    red, green, blue = (
        decoded((PAIRS / "png-palette-transparent.png").read_bytes()).astype(int).transpose(2, 0, 1)
    )
    assert not ((red > 200) & (green < 60) & (blue > 200)).any()


def test_cmyk_keeps_its_colours() -> None:
    colours = Image.new("RGB", (32, 32), (200, 40, 90))
    data = encoded(colours.convert("CMYK"), "JPEG", quality=95)
    np.testing.assert_allclose(decoded(data), np.asarray(colours), atol=4)


def test_animation_gives_its_first_frame() -> None:
    red, blue = Image.new("RGB", (20, 20), "red"), Image.new("RGB", (20, 20), "blue")
    picture = decoded(encoded(red, "GIF", save_all=True, append_images=[blue]))
    np.testing.assert_array_equal(picture, np.asarray(red))


def test_tensor_holds_the_pixels_channels_first() -> None:
    pixels = random_pixels(5, 7)
    tensor = to_tensor(Image.fromarray(pixels))
    assert tensor.dtype == torch.uint8 and tensor.is_contiguous()
    np.testing.assert_array_equal(tensor.numpy(), pixels.transpose(2, 0, 1))


def test_picture_survives_the_way_through_a_tensor() -> None:
    image = Image.fromarray(random_pixels(5, 7))
    np.testing.assert_array_equal(np.asarray(to_image(to_tensor(image) / 255)), np.asarray(image))


def test_values_out_of_range_are_clamped() -> None:
    picture = np.asarray(to_image(torch.tensor([-1.0, 0.5, 2.0]).expand(3, 1, 3)))
    np.testing.assert_array_equal(picture[0, :, 0], [0, 128, 255])


def test_wrong_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"\[1, 4, 4\]"):
        to_image(torch.zeros(1, 4, 4))
