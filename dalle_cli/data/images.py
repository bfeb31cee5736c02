"""Decoding picture files to upright sRGB, encoding, and converting RGB to tensors and back.

All input is untrusted: few formats are allowed, the size is checked in the header before a pixel is
decoded, and any damage makes the sample unusable (`BadSample`) rather than half grey. Knows nothing
of captions, files or cropping. Axes: H height, W width.
"""

import io
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from dalle_cli.data.pictures.formats import describe_unreadable
from dalle_cli.data.pictures.icc_profiles import to_srgb, without_large_profile
from dalle_cli.data.pictures.reduction import UNREADABLE_EXIF, reduce_jpeg

# Recorded with embeddings and tokens: raise it when pixels change.
# 2: embedded ICC profiles are applied; 3: random crops of large JPEGs are cut by `decode_reduced`
DECODING_VERSION = 3

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
MAX_PIXELS = 64_000_000
MIN_SIDE = 16
TOO_LARGE = f"picture too large: over {MAX_PIXELS // 10**6} megapixels"
TOO_SMALL = f"picture too small: under {MIN_SIDE} pixels on its short side"

T = TypeVar("T")
Problem = tuple[str, str]  # which sample or file is unusable, and why


class BadSample(Exception):
    """A sample is unusable, through no fault of the disk; `reason` is short and safe to print."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class ReducedImage:
    """An upright picture of sRGB, each side of which may be a half or a quarter.

    size       width and height of the whole picture
    reduction  how many of its pixels, across and down, each pixel of the image stands for
    """

    image: Image.Image
    size: tuple[int, int]
    reduction: int = 1


def decode_image(data: bytes) -> Image.Image:
    """Decode an upright picture of sRGB: transparency on white, the first frame of an animation.

    An embedded ICC profile is applied before transparency is.

    Raises `BadSample` for other formats, sizes out of bounds, and damaged or incomplete data.
    """
    return _with_faults_named(_decode, data)


def decode_reduced(data: bytes, scaled_side: int) -> ReducedImage:
    """Decode a picture like `decode_image`, but a large JPEG at a part of its size.

    scaled_side  the largest side to which a square of the short side's length is scaled

    Raises `BadSample` like `decode_image`.
    """
    return _with_faults_named(partial(_decode_reduced, scaled_side=scaled_side), data)


def check_header(data: bytes) -> None:
    """Raise `BadSample` for what is wrong with a picture as far as its header tells: much cheaper.

    These are other formats and sizes out of bounds; damage shows only when it is decoded.
    """
    _with_faults_named(_open, data).close()


def _with_faults_named(read: Callable[[bytes], T], data: bytes) -> T:
    """Read a picture's data; raises `BadSample` for whatever is wrong with them."""
    if not data:
        raise BadSample("empty picture file")

    with warnings.catch_warnings():
        # Whatever Pillow warns about is either decoded well or an error below
        warnings.simplefilter("ignore")
        try:
            return read(data)
        except (BadSample, MemoryError):
            raise
        except Image.UnidentifiedImageError:
            raise BadSample(describe_unreadable(data)) from None
        except Image.DecompressionBombError:
            raise BadSample(TOO_LARGE) from None
        except Exception as error:  # on damaged data Pillow's decoders raise nearly anything
            raise BadSample("damaged or incomplete picture") from error


def to_tensor(image: Image.Image) -> Tensor:
    """Copy an RGB picture into a uint8 tensor [3, H, W]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()  # [3, H, W]


def to_image(pixels: Tensor) -> Image.Image:
    """Convert float pixels [3, H, W] in [0, 1] to a picture; values outside are clamped."""
    if pixels.ndim != 3 or pixels.shape[0] != 3:
        raise ValueError(f"pixels must be [3, H, W]: {list(pixels.shape)}")
    levels = (pixels.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())  # [H, W, 3]


def to_png(picture: Image.Image, texts: PngInfo | None = None) -> bytes:
    """Encode a picture as a PNG file, with texts in its chunks, if any."""
    file = io.BytesIO()
    picture.save(file, format="PNG", pnginfo=texts)
    return file.getvalue()


def _open(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(without_large_profile(data)), formats=FORMATS)
    _check_size(*image.size)
    return image


def _decode(data: bytes) -> Image.Image:
    with _open(data) as image:
        return _load(image)


def _decode_reduced(data: bytes, *, scaled_side: int) -> ReducedImage:
    with _open(data) as image:
        size = image.size
        reduction = reduce_jpeg(image, scaled_side)
        stored_size = image.size
        loaded = _load(image)
    width, height = size if loaded.size == stored_size else reversed(size)
    return ReducedImage(loaded, (width, height), reduction)


def _load(image: Image.Image) -> Image.Image:
    image.load()  # before the EXIF is read, where errors are forgiven
    profile = image.info.get("icc_profile")
    return _to_rgb(_to_8_bits(_to_upright(image)), profile)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadSample(TOO_LARGE)
    if min(width, height) < MIN_SIDE:
        raise BadSample(TOO_SMALL)


def _to_upright(image: Image.Image) -> Image.Image:
    # The pixels are good where only the EXIF is unreadable
    with suppress(*UNREADABLE_EXIF):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _to_8_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith("I"):
        return image
    # 16-bit grey, which Pillow's conversion would clip
    levels = np.asarray(image).astype(np.float32) * (255 / 65535)
    return Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))


def _to_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    colours = image if image.mode in ("CMYK", mode) else image.convert(mode)
    rgb = to_srgb(colours, profile)
    if not image.has_transparency_data:
        return rgb

    rgb.putalpha(image.convert("RGBA").getchannel("A"))
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgb).convert("RGB")
