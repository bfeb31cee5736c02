"""Embedded ICC profiles: from the colours that a picture's profile means to sRGB, by littleCMS.

The rendering intent is relative colorimetric, without black point compensation. A profile that is
damaged, too large, or for other channels than the picture's counts as none. Knows nothing of
transparency, nor of other marks of a colour space (EXIF's, PNG's gAMA and cHRM).
"""

import io
import struct
import zlib
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PROFILE_BYTES = 4 * 2**20  # those of printing presses take up to 3 MiB
KEPT_TRANSFORMS = 16  # in each process
LATTICE_STEP = 5  # levels between the colours at which a profile is compared with sRGB


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert a picture of L, RGB or CMYK, given the profile in its file, to RGB in sRGB."""
    if profile is not None and len(profile) > MAX_PROFILE_BYTES:
        profile = None
    transform = _transform(profile, image.mode) if profile else None
    if transform is not None:
        return transform.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def without_large_profile(data: bytes) -> bytes:
    """Return a picture's file, a PNG without its profile if that is larger than Pillow allows.

    Pillow would refuse the whole picture.
    """
    if not data.startswith(PNG_SIGNATURE):
        return data
    start = len(PNG_SIGNATURE)
    while start + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[start : start + 8])
        end = start + 12 + length  # with the checksum
        if kind == b"iCCP" and not _is_within_limit(data[start + 8 : end - 4]):
            return data[:start] + data[end:]
        if kind in (b"iCCP", b"IDAT"):
            return data
        start = end
    return data


def _is_within_limit(chunk: bytes) -> bool:
    compressed = chunk.partition(b"\0")[2][1:]  # after the name and the number of the method
    decompressor = zlib.decompressobj()
    try:
        decompressor.decompress(compressed, PngImagePlugin.MAX_TEXT_CHUNK)
    except zlib.error:
        return True  # Pillow reads the picture without it
    return not decompressor.unconsumed_tail


@lru_cache(maxsize=KEPT_TRANSFORMS)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Build the transform to sRGB; None if it cannot be built, or would change nothing.

    Threads share it: applying a transform writes nothing into it.
    """
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.NONE,
        )
    except (ImageCms.PyCMSError, OSError):
        return None
    return None if _changes_nothing(transform) else transform


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Return whether a transform moves no colour of a lattice by more than a level."""
    side = 255 // LATTICE_STEP + 1
    lattice = LATTICE_STEP * np.indices((side, side, side), np.uint8).reshape(3, 1, -1)
    image = Image.fromarray(lattice.transpose(1, 2, 0).copy()).convert(transform.input_mode)

    found, expected = (
        np.asarray(picture, np.int16) for picture in (transform.apply(image), image.convert("RGB"))
    )
    return bool(np.abs(found - expected).max() <= 1)
