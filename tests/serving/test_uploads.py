"""Pictures to begin from: read like a stranger's, cut, and few of them kept."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dalle_cli.data.augment import centre_crop
from dalle_cli.errors import UsageError
from dalle_cli.serving.uploads import MAX_UPLOADS, UploadShelf

SIDE = 24


def picture(seed: int = 0, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(256, size=(40, 50, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_square_of_the_model_is_kept(kind: str) -> None:
    shelf, content = UploadShelf(SIDE), picture(kind=kind)
    upload = shelf.find(shelf.add(content))
    assert upload is not None
    with Image.open(io.BytesIO(content)) as whole:
        expected = centre_crop(whole.convert("RGB"), SIDE)
    np.testing.assert_array_equal(np.asarray(upload.image), expected)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(upload.content))), expected)


def test_same_picture_has_the_same_id() -> None:
    shelf = UploadShelf(SIDE)
    assert shelf.add(picture(1)) == shelf.add(picture(1)) != shelf.add(picture(2))


def test_few_are_kept_and_the_used_ones_longest() -> None:
    shelf = UploadShelf(SIDE)
    first, second = shelf.add(picture(0)), shelf.add(picture(1))
    for seed in range(2, MAX_UPLOADS + 1):
        assert shelf.find(first) is not None
        shelf.add(picture(seed))
    assert shelf.find(first) is not None and shelf.find(second) is None


@pytest.mark.parametrize(
    "content", [b"", b"<svg/>", picture()[:200], b"BM" + bytes(99), picture()[:-40]]
)
def test_what_is_no_picture_is_told(content: bytes) -> None:
    with pytest.raises(UsageError, match="cannot use the picture: "):
        UploadShelf(SIDE).add(content)


def test_size_is_looked_at_before_a_pixel_is_decoded() -> None:
    content = picture()
    header = struct.pack(">II", 20000, 20000) + content[24:29]
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    with pytest.raises(UsageError, match="picture too large"):
        UploadShelf(SIDE).add(content[:16] + header + checksum + content[33:])
