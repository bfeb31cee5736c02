"""Which pictures are compared with which captions.

A caption for all pictures takes precedence over those of a manifest, and these over the first
caption in the caption file beside a picture. Whether a picture can be read is found out when it is.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dalle_cli.data.images import BadSample
from dalle_cli.data.picture_lists import ListedPicture
from dalle_cli.data.sources.captions import (
    clean_captions,
    parse_captions,
    parse_json_captions,
)
from dalle_cli.data.sources.columns import Columns
from dalle_cli.data.sources.file_names import CAPTION_SUFFIXES, JSON_SUFFIX
from dalle_cli.errors import SURROGATE, DalleError, UsageError, printable
from dalle_cli.storage.small_files import read_file


class CaptionedPicture(NamedTuple):
    """A picture's path, and the caption that it is compared with."""

    path: Path
    caption: str


def with_captions(
    pictures: Sequence[ListedPicture], caption: str | None, *, out: Path | None
) -> list[CaptionedPicture]:
    """Return pictures, each with the given caption, or with its own if None is given.

    out  a folder whose pictures are left out: an earlier job has copied its best ones there

    Raises DalleError if there are no pictures, and UsageError if one has no caption.
    """
    if out is not None:
        folder = os.path.realpath(out)
        pictures = [picture for picture in pictures if not _is_inside(picture.path, folder)]
    if not pictures:
        raise DalleError(f"no pictures apart from those of {out} itself")

    if caption is not None:
        cleaned = _clean_caption(caption)
        return [CaptionedPicture(picture.path, cleaned) for picture in pictures]
    return [_with_own_caption(picture) for picture in pictures]


def _is_inside(file: Path, folder: str) -> bool:
    """Whether a file is below a folder, links followed; a path that leads nowhere is not."""
    try:
        return Path(folder) in Path(os.path.realpath(file)).parents
    except ValueError:  # a NUL byte
        return False


def _clean_caption(caption: str) -> str:
    if SURROGATE.search(caption):
        raise UsageError("the caption is not UTF-8")
    cleaned = clean_captions([caption])
    if not cleaned:
        hint = "give it in quotes, or leave it out if a manifest has captions"
        raise UsageError("an empty caption", hint)
    return cleaned[0]


def _with_own_caption(picture: ListedPicture) -> CaptionedPicture:
    caption = picture.caption or _caption_beside(picture.path)
    if caption is None:
        message = f"no caption for {printable(str(picture.path))}"
        example = 'dalle rerank PICTURES "a caption"'
        text_file = printable(picture.path.with_suffix(CAPTION_SUFFIXES[0]).name)
        hint = f"give one for all, as in: {example}, a manifest, or {text_file} beside it"
        raise UsageError(message, hint)
    return CaptionedPicture(picture.path, caption)


def _caption_beside(picture: Path) -> str | None:
    """Return the first caption in the caption file of a picture's name, as in training data."""
    for suffix in CAPTION_SUFFIXES:
        file = picture.with_suffix(suffix)
        try:
            text = read_file(file)
        except (OSError, ValueError):  # a NUL byte in a name, too
            continue

        try:
            if suffix == JSON_SUFFIX:
                return parse_json_captions(text, Columns())[0]
            return parse_captions(text)[0]
        except BadSample as error:
            raise UsageError(f"{printable(str(file))}: {error.reason}") from None
    return None
