"""Formats by their first bytes: against Pillow's writers, and files of other kinds by hand."""

import io

import pytest
from PIL import Image, features

from dalle_cli.data.images import BadSample, decode_image
from dalle_cli.data.pictures.formats import START, describe_unreadable, format_of, is_picture

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
MP4 = b"\0\0\0\x18ftypisom\0\0\2\0isommp41" + bytes(200)


def encoded(picture_format: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, picture_format)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WebP", "GIF"])
def test_formats_that_are_read_are_known_by_their_start(name: str) -> None:
    data = encoded(name.upper())
    assert format_of(data[:START]) == name and is_picture(data[:START])
    assert decode_image(data).size == (32, 32)


@pytest.mark.parametrize("name", ["BMP", "TIFF", "AVIF"])
def test_formats_that_are_not_read_are_named(name: str) -> None:
    if name == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    data = encoded(name)
    assert format_of(data[:START]) == name and not is_picture(data[:START])
    with pytest.raises(BadSample, match=f"^{name}, which is not read: convert it to JPEG or PNG$"):
        decode_image(data)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (HEIC, "HEIC, which is not read"),
        (b"\xff\x0a" + bytes(100), "JPEG XL, which is not read"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL, which is not read"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000, which is not read"),
        (b"8BPS\0\1", "Photoshop, which is not read"),
        (b'<?xml version="1.0"?>\n<svg width="3">', "SVG, which is not read"),
        (b"\n<!DOCTYPE HTML><html>404", "web page, not a picture"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "Git LFS pointer, not the picture: `git lfs pull` fetches it",
        ),
        (MP4, "not a JPEG, PNG, WebP or GIF picture"),
        (b"\xff\xff\xff\xffftyp" + bytes(8), "not a JPEG, PNG, WebP or GIF picture"),
        (b"plain text", "not a JPEG, PNG, WebP or GIF picture"),
        (b"\xff", "not a JPEG, PNG, WebP or GIF picture"),
    ],
)
def test_what_is_not_a_picture_is_told_by_what_it_is(data: bytes, told: str) -> None:
    assert describe_unreadable(data).startswith(told)
    with pytest.raises(BadSample) as caught:
        decode_image(data)
    assert caught.value.reason.startswith(told)
