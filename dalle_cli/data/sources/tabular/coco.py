"""COCO's captions: a JSON file with `images` and `annotations`, and the pictures near it.

As COCO lays them out, `annotations/captions_train2017.json` stands beside `train2017/`. The
pictures are looked for beside the file, in a folder named after the end of its name (`train2017`),
in `images`, and in the same folders one level above.
"""

import json
import os
from collections.abc import Iterator
from typing import Any

from dalle_cli.data.images import BadSample, Problem
from dalle_cli.data.sources.captions import clean_captions
from dalle_cli.data.sources.tabular.listed import ListedSource, Listing, PictureRow
from dalle_cli.errors import DalleError, printable

TRIED = 100  # pictures that are looked for in each folder


def open_coco(name: str, *, captions_required: bool) -> ListedSource:
    """Open the pictures of a COCO file, in its order.

    Raises DalleError if it is another kind of JSON, has no captions where they are required, or its
    pictures are not found.
    """
    content = _read(name)
    files = _files_of_images(content["images"])
    captions, problems = _captions_of_images(content["annotations"], name)
    if captions_required and not any(captions.values()):
        raise DalleError(
            f"no captions in {printable(name)}",
            "COCO has them in files of their own, as in captions_train2017.json",
        )

    folder = _picture_folder(name, list(files.values()))
    rows = [
        PictureRow(printable(f"{name}: image {number}"), file, captions.get(number, []))
        for number, file in files.items()
    ]
    return ListedSource(
        name,
        Listing(rows, problems),
        folder=folder,
        form=f"COCO captions, pictures in {printable(os.path.relpath(folder))}",
        captions_required=captions_required,
    )


def _read(name: str) -> dict[str, list[Any]]:
    try:
        with open(name, encoding="utf-8-sig", errors="surrogateescape") as file:
            content = json.load(file)
    except (ValueError, RecursionError):
        raise DalleError(f"not JSON: {printable(name)}", "one row a line is .jsonl") from None

    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    ):
        keys = ", ".join(list(content)[:8]) if isinstance(content, dict) else "something else"
        raise DalleError(
            f"not COCO's captions: {printable(name)}",
            f"expected the lists `images` and `annotations`, found {printable(keys)}; "
            "rows of pictures and captions can be read as a list",
        )
    return content


def _files_of_images(images: list[Any]) -> dict[object, str]:
    """Map the number of every image to its file."""
    return {
        image["id"]: os.path.normpath(image["file_name"])
        for image in images
        if isinstance(image, dict)
        and isinstance(image.get("id"), int | str)
        and isinstance(image.get("file_name"), str)
        and image["file_name"]
    }


def _captions_of_images(
    annotations: list[Any], name: str
) -> tuple[dict[object, list[str]], list[Problem]]:
    """Map the number of every captioned image to its captions."""
    captions: dict[object, list[str]] = {}
    problems = []
    for place, annotation in enumerate(annotations):
        if not isinstance(annotation, dict) or not isinstance(annotation.get("caption"), str):
            continue  # boxes and keypoints have none
        number = annotation.get("image_id")
        if not isinstance(number, int | str):
            continue

        try:
            captions.setdefault(number, []).extend(clean_captions([annotation["caption"]]))
        except BadSample as error:
            problems.append((printable(f"{name}: annotation {place}"), error.reason))
    return captions, problems


def _picture_folder(name: str, files: list[str]) -> str:
    """Return the first folder that holds one of the first pictures."""
    folders = list(dict.fromkeys(_likely_folders(name)))
    for folder in folders:
        if any(os.path.isfile(os.path.join(folder, file)) for file in files[:TRIED]):
            return folder

    example = f", such as {files[0]}" if files else ""
    raise DalleError(
        printable(f"found no picture of {name}{example}"),
        printable(f"looked in {', '.join(map(os.path.relpath, folders))}"),
    )


def _likely_folders(name: str) -> Iterator[str]:
    here = os.path.dirname(os.path.abspath(name))
    split = os.path.splitext(os.path.basename(name))[0].rpartition("_")[2]
    for base in (here, os.path.dirname(here)):
        yield base
        yield os.path.join(base, split)
        yield os.path.join(base, "images")
        yield os.path.join(base, "images", split)
