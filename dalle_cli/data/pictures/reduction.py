"""Decoding a JPEG at a half or a quarter of its size, where what it is scaled to shows no more.

libjpeg then leaves out the finest frequencies of each block, which is cheaper, and not quite what
averaging the pixels gives.
"""

import struct
from contextlib import suppress

from PIL import ExifTags, Image

REDUCTIONS = (4, 2)
FINENESS = 4 / 3  # how many pixels are left at least for each that the picture is scaled to

UNREADABLE_EXIF = (struct.error, SyntaxError, LookupError, TypeError, ValueError)
UPRIGHT = 1  # EXIF's orientation of what is neither turned nor mirrored


def reduce_jpeg(image: Image.Image, scaled_side: int) -> int:
    """Set an opened JPEG to be decoded at a part of its size; returns which, 1 for the whole.

    Where a side is no multiple, its last pixel stands for fewer than the others. It has to stay the
    last, so that such a picture is not reduced if it will be turned or mirrored.

    scaled_side  the largest side to which a square of the short side's length is scaled
    """
    for reduction in REDUCTIONS if image.format == "JPEG" else ():
        width, height = (side // reduction for side in image.size)
        is_multiple = not any(side % reduction for side in image.size)
        can_reduce = is_multiple or _orientation(image) == UPRIGHT
        if min(width, height) >= FINENESS * scaled_side and can_reduce:
            return reduction if image.draft(None, (width, height)) else 1
    return 1


def _orientation(image: Image.Image) -> int:
    with suppress(*UNREADABLE_EXIF):
        return image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    return UPRIGHT
