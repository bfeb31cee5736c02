"""A CSV or JSON Lines file that lists pictures and captions, one pair or one picture per row.

CSV has the columns `image` and `caption`; a line of JSON has `image` and `caption`, or `captions`
with a list. Rows with the same picture add captions to it. Paths are relative to the manifest;
absolute paths and `..` are allowed, as the user wrote the file and pictures are only ever read. The
key is the path as written, without its suffix.
"""

import os

from dalle_cli.data.images import BadSample, Problem
from dalle_cli.data.sources.captions import NO_CAPTION, clean_captions
from dalle_cli.data.sources.source import Sample, fingerprint_of
from dalle_cli.data.tables import read_table
from dalle_cli.errors import printable


class ManifestSource:
    """Source over the pictures that a manifest lists, in its order."""

    def __init__(self, name: str, *, captions_required: bool) -> None:
        self.name = name
        self.problems: list[Problem] = []
        self._images: list[str] = []
        self._captions: list[list[str]] = []

        gathered = self._captions_of_images(captions_required=captions_required)
        for image, (line, captions) in gathered.items():
            if not os.path.isfile(self._path(image)):
                self._report(line, f"no such file: {printable(image)}")
            elif captions_required and not captions:
                self._report(line, NO_CAPTION)
            else:
                self._images.append(image)
                self._captions.append(captions)

    def __len__(self) -> int:
        return len(self._images)

    def key(self, index: int) -> str:
        return os.path.splitext(self._images[index])[0].replace(os.sep, "/")

    def read(self, index: int) -> Sample:
        with open(self._path(self._images[index]), "rb") as file:
            return Sample(self.key(index), file.read(), captions=self.captions(index))

    def captions(self, index: int) -> list[str]:
        return list(self._captions[index])

    def fingerprint(self) -> str:
        return fingerprint_of(
            (
                self.key(i),
                os.path.getsize(self._path(image)),
                len("\n".join(self._captions[i]).encode()),
            )
            for i, image in enumerate(self._images)
        )

    def _captions_of_images(self, *, captions_required: bool) -> dict[str, tuple[int, list[str]]]:
        """Gather, for each picture, the line that first names it and all its captions."""
        gathered: dict[str, tuple[int, list[str]]] = {}
        columns = ["image", "caption"] if captions_required else ["image"]

        # Odd bytes become surrogates: right in a file name, found by `clean_captions` in a caption
        with open(self.name, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            for line, row in read_table(file, self.name, columns=columns):
                try:
                    image, captions = _image_and_captions(row)
                except BadSample as error:
                    self._report(line, error.reason)
                else:
                    gathered.setdefault(image, (line, []))[1].extend(captions)
        return gathered

    def _path(self, image: str) -> str:
        return os.path.join(os.path.dirname(self.name), image)

    def _report(self, line: int, reason: str) -> None:
        self.problems.append((printable(f"{self.name}:{line}"), reason))


def _image_and_captions(row: object) -> tuple[str, list[str]]:
    if not isinstance(row, dict):
        raise BadSample("not a JSON object")

    image = row.get("image")
    if not isinstance(image, str) or not image:
        raise BadSample("row without `image`")

    captions = row.get("captions", row.get("caption")) or []
    captions = [captions] if isinstance(captions, str) else captions
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise BadSample("`caption` must be text, `captions` a list of texts")
    return os.path.normpath(image), clean_captions(captions)
