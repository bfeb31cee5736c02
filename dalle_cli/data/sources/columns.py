"""Which columns of a table, or keys of a JSON object, hold the picture and its captions.

The user names them, or the first known name that is there is taken, whatever its case.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from dalle_cli.data.images import BadSample
from dalle_cli.errors import DalleError, printable

IMAGE_COLUMNS = (
    "image",
    "file_name",
    "filename",
    "filepath",
    "file_path",
    "image_path",
    "image_file",
    "img",
    "img_path",
    "picture",
    "photo",
    "path",
    "file",
    "jpg",
    "jpeg",
    "png",
    "webp",
)
CAPTION_COLUMNS = (
    "captions",
    "caption",
    "texts",
    "text",
    "prompt",
    "description",
    "alt_text",
    "alt",
    "sentences",
    "sentence",
    "title",
    "labels",
    "label",
)
URL_COLUMNS = ("url", "image_url", "img_url", "image_link", "link", "src")
DOWNLOAD = "download the pictures first, as with img2dataset"


@dataclass(frozen=True)
class Columns:
    """The columns that the user chose; None leaves the choice to the known names."""

    image: str | None = None
    caption: str | None = None

    def find_images(self, names: Iterable[object]) -> list[str]:
        """Return the columns that may hold pictures, the likeliest first."""
        return _find(names, self.image, IMAGE_COLUMNS)

    def find_captions(self, names: Iterable[object]) -> list[str]:
        """Return the columns that may hold captions, the likeliest first."""
        return _find(names, self.caption, CAPTION_COLUMNS)

    def find_image(self, names: Iterable[object]) -> str | None:
        """Return the column of the pictures, or None."""
        return next(iter(self.find_images(names)), None)

    def find_caption(self, names: Iterable[object]) -> str | None:
        """Return the column of the captions, or None."""
        return next(iter(self.find_captions(names)), None)

    def image_missing(self, names: Iterable[object], table: str) -> DalleError:
        """Build the error for a table in which no column holds pictures."""
        found = [name for name in names if isinstance(name, str)]
        what = "with pictures" if self.image is None else f"`{self.image}`"
        if addresses := _find(found, None, URL_COLUMNS):
            message = printable(f"no column {what} in {table}, but addresses in `{addresses[0]}`")
            return DalleError(message, DOWNLOAD)
        example = _closest(found, self.image, IMAGE_COLUMNS) or next(iter(found), "NAME")
        return _missing(what, f"--image-column {example}", found=found, table=table)

    def caption_missing(self, names: Iterable[object], table: str) -> DalleError:
        """Build the error for a table in which no column holds captions."""
        image = self.find_image(names)
        found = [name for name in names if isinstance(name, str)]
        others = [name for name in found if name != image]
        example = _closest(others, self.caption, CAPTION_COLUMNS) or next(reversed(others), "NAME")
        what = "with captions" if self.caption is None else f"`{self.caption}`"
        return _missing(what, f"--caption-column {example}", found=found, table=table)


def captions_in(row: dict, columns: Iterable[str]) -> list[str]:
    """Return the captions in the first column of a row that has any: a text, or a list of texts.

    Raises BadSample if it holds anything else.
    """
    for column in columns:
        captions = row.get(column)
        captions = [captions] if isinstance(captions, str) else captions or []
        if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
            raise BadSample(f"`{printable(column)}` must be text or a list of texts")
        if any(text.strip() for text in captions):
            return captions
    return []


def _find(names: Iterable[object], chosen: str | None, known: tuple[str, ...]) -> list[str]:
    texts = [name for name in names if isinstance(name, str)]
    if chosen is not None:
        return [chosen] if chosen in texts else []
    by_lower_case = {name.lower(): name for name in reversed(texts)}
    return [by_lower_case[name] for name in known if name in by_lower_case]


def _closest(names: list[str], chosen: str | None, known: tuple[str, ...]) -> str | None:
    wanted = known if chosen is None else (chosen,)
    matches = (difflib.get_close_matches(name, names, n=1) for name in wanted)
    return next((match[0] for match in matches if match), None)


def _missing(what: str, option: str, *, found: list[str], table: str) -> DalleError:
    hint = f"columns found: {', '.join(found)}; choose with `{option}`"
    if table.lower().endswith(".csv") and len(found) == 1:
        hint += "; the first line of a CSV file names the columns, separated by commas"
    return DalleError(f"no column {printable(what)} in {printable(table)}", printable(hint))
