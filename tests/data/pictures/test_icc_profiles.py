"""Embedded profiles against published colours, arithmetic and littleCMS; broken ones are none."""

import io
import threading

import icc
import numpy as np
import pytest
from PIL import Image, ImageCms

from dalle_cli.data.images import decode_image
from dalle_cli.data.pictures.icc_profiles import MAX_PROFILE_BYTES, to_srgb

P3 = icc.matrix_profile(*icc.DISPLAY_P3)
P3_GAMMA_2_2 = icc.matrix_profile(*icc.DISPLAY_P3[:2], icc.gamma(2.2))
ADOBE = icc.matrix_profile(*icc.ADOBE_RGB)
GREEN, RED = (60, 190, 60), (200, 60, 60)


def press(inks: tuple[int, int, int, int]) -> tuple[float, float, float]:
    """Lab colours of overprints that are nothing like the complements of red, green and blue."""
    cyan, magenta, yellow, black = inks
    lightness = 100 * (1 - 0.3 * cyan - 0.3 * magenta - 0.1 * yellow) * (1 - 0.9 * black)
    return lightness, -40 * cyan + 60 * magenta, -40 * cyan + 70 * yellow


PRESS = icc.ink_profile(press)


def encoded(image: Image.Image, profile: bytes, picture_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, picture_format, icc_profile=profile, **options)
    return buffer.getvalue()


def decoded(image: Image.Image, profile: bytes, *words: str, **options: object) -> np.ndarray:
    return np.asarray(decode_image(encoded(image, profile, *words, **options))).astype(int)


def flat(colour: int | tuple[int, ...], mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (24, 24), colour)


def random_colours(channels: int = 3) -> np.ndarray:
    shape = (40, 50) if channels == 1 else (40, 50, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def by_littlecms(image: Image.Image, profile: bytes) -> np.ndarray:
    """Relative colorimetric, without black point compensation."""
    converted = ImageCms.profileToProfile(
        image,
        io.BytesIO(profile),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.NONE,
    )
    return np.asarray(converted).astype(int)


@pytest.mark.parametrize(
    ("picture_format", "options"),
    [
        ("PNG", {}),
        ("JPEG", {"quality": 100, "subsampling": 0}),
        ("WEBP", {"lossless": True}),
    ],
)
@pytest.mark.parametrize(
    ("profile", "colour", "expected"),
    [
        (P3_GAMMA_2_2, GREEN, (0, 195, 12)),
        (P3_GAMMA_2_2, RED, (219, 37, 49)),
        (ADOBE, GREEN, (0, 191, 40)),
        (ADOBE, RED, (231, 57, 57)),
    ],
    ids=["P3 green", "P3 red", "Adobe green", "Adobe red"],
)
def test_colours_are_those_that_the_profile_means(
    profile: bytes,
    colour: tuple[int, ...],
    expected: tuple[int, ...],
    picture_format: str,
    options: dict[str, object],
) -> None:
    found = decoded(flat(colour), profile, picture_format, **options)
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=2)


@pytest.mark.parametrize(
    "space", [icc.DISPLAY_P3, icc.ADOBE_RGB, icc.PROPHOTO], ids=["P3", "Adobe RGB", "ProPhoto"]
)
def test_conversion_is_that_of_the_published_primaries(space: tuple) -> None:
    colours = random_colours()
    found = decoded(Image.fromarray(colours), icc.matrix_profile(*space))
    np.testing.assert_allclose(found, icc.srgb_of(colours, *space), atol=1)


@pytest.mark.parametrize(
    ("mode", "profile", "picture_format"),
    [
        ("RGB", P3, "PNG"),
        ("RGB", icc.matrix_profile(*icc.PROPHOTO), "PNG"),
        ("L", icc.grey_profile(icc.gamma(1.8)), "PNG"),
        ("CMYK", PRESS, "JPEG"),
    ],
    ids=["P3", "ProPhoto", "grey", "CMYK"],
)
def test_conversion_is_that_of_littlecms(mode: str, profile: bytes, picture_format: str) -> None:
    data = encoded(Image.fromarray(random_colours(len(mode)), mode), profile, picture_format)
    expected = by_littlecms(Image.open(io.BytesIO(data)), profile)
    np.testing.assert_allclose(np.asarray(decode_image(data)).astype(int), expected, atol=1)


def test_grey_profile_holds_for_a_grey_picture() -> None:
    found = decoded(flat(100, "L"), icc.grey_profile(icc.gamma(1.8)))
    level = 255 * (1.055 * (100 / 255) ** (1.8 / 2.4) - 0.055)
    np.testing.assert_allclose(found, level, atol=1)


def test_inks_of_a_press_come_out_as_its_profile_says() -> None:
    paper = decoded(flat((0, 0, 0, 0), "CMYK"), PRESS, "JPEG", quality=100)
    np.testing.assert_array_equal(paper, 255)
    black = decoded(flat((0, 0, 0, 255), "CMYK"), PRESS, "JPEG", quality=100)
    np.testing.assert_allclose(black, 27, atol=2)  # L* = 10, where naive conversion gives 0


def test_palette_is_converted() -> None:
    found = decoded(flat(GREEN).quantize(4), P3_GAMMA_2_2)
    np.testing.assert_allclose(found, np.broadcast_to((0, 195, 12), found.shape), atol=2)


def test_16_bit_grey_is_converted() -> None:
    levels = Image.fromarray(np.full((24, 24), 100 * 257, np.uint16))
    profile = icc.grey_profile(icc.gamma(1.8))
    expected = decoded(flat(100, "L"), profile)
    np.testing.assert_array_equal(decoded(levels, profile), expected)
    assert expected[0, 0, 0] != 100


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_composited_after_conversion(mode: str) -> None:
    """Half of the converted colour and half of white, not the conversion of the mixture."""
    profile = icc.grey_profile(icc.gamma(1.0)) if mode == "LA" else ADOBE
    colour = 60 if mode == "LA" else GREEN
    opaque = decoded(flat(colour, "L" if mode == "LA" else "RGB"), profile)
    if mode == "P":
        image, options = flat(colour).quantize(2), {"transparency": bytes([128, 128])}
    else:
        image, options = flat((60, 128) if mode == "LA" else (*GREEN, 128), mode), {}

    found = decoded(image, profile, **options)
    np.testing.assert_allclose(found, (opaque * 128 + 255 * 127) / 255, atol=1)


def test_invisible_colour_is_white_whatever_the_profile() -> None:
    np.testing.assert_array_equal(decoded(flat((*GREEN, 0), "RGBA"), P3), 255)


@pytest.mark.parametrize(
    "profile",
    [
        b"\0",
        P3[:200],
        P3[:128] + bytes(len(P3) - 128),
        b"no profile at all" * 20,
        P3 + bytes(MAX_PROFILE_BYTES),  # fine but for its size
    ],
    ids=["a byte", "cut", "no tags", "text", "size"],
)
def test_broken_profile_counts_as_none(profile: bytes) -> None:
    image = Image.fromarray(random_colours())
    np.testing.assert_array_equal(np.asarray(to_srgb(image, profile)), np.asarray(image))
    np.testing.assert_array_equal(decoded(image, profile, "WEBP", lossless=True), np.asarray(image))


@pytest.mark.parametrize("n_bytes", [2**20, 2**20 + 1, 2**22])
def test_profile_that_is_too_large_for_a_png_does_not_spoil_the_picture(n_bytes: int) -> None:
    profile = ADOBE + np.random.default_rng(0).bytes(n_bytes - len(ADOBE))
    found = decoded(flat(GREEN), profile)
    expected = (0, 191, 40) if n_bytes == 2**20 else GREEN
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=2)


@pytest.mark.parametrize(
    ("mode", "profile"),
    [("RGB", PRESS), ("RGB", icc.grey_profile(icc.gamma(1.0))), ("L", P3), ("CMYK", P3)],
)
def test_profile_for_other_channels_counts_as_none(mode: str, profile: bytes) -> None:
    image = Image.fromarray(random_colours(len(mode)), mode)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(to_srgb(image, profile)), expected)


@pytest.mark.parametrize(
    "profile",
    [
        icc.matrix_profile(*icc.SRGB),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    ],
    ids=["by primaries", "littleCMS's"],
)
def test_srgb_profile_leaves_every_level_as_it_is(profile: bytes) -> None:
    image = Image.fromarray(random_colours())
    assert to_srgb(image, profile) is image


def test_flipped_bytes_of_a_profile_never_spoil_a_picture() -> None:
    image, rng = flat(GREEN), np.random.default_rng(0)
    for _ in range(200):
        profile = bytearray(P3_GAMMA_2_2)
        for place in rng.integers(0, 400, 3):
            profile[place] = rng.integers(256)
        assert to_srgb(image, bytes(profile)).size == image.size


def test_threads_share_a_transform() -> None:
    pictures = [Image.fromarray(np.roll(random_colours(), i, axis=0)) for i in range(8)]
    expected = [by_littlecms(picture, P3) for picture in pictures]
    found: list[list[np.ndarray]] = [[] for _ in pictures]

    def convert(number: int) -> None:
        for _ in range(20):
            found[number].append(np.asarray(to_srgb(pictures[number], P3)).astype(int))

    threads = [threading.Thread(target=convert, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results, wanted in zip(found, expected, strict=True):
        assert len(results) == 20
        assert all((result == wanted).all() for result in results)
