"""Columns: known names in their order, the user's choice before them, and errors that help."""

import pytest

from dalle_cli.data.images import BadSample
from dalle_cli.data.sources.columns import Columns, captions_in


@pytest.mark.parametrize(
    ("names", "image", "caption"),
    [
        (["caption", "image"], "image", "caption"),
        (["file_name", "text", "label"], "file_name", "text"),
        (["IMG", "Caption"], "IMG", "Caption"),
        (["label", "path"], "path", "label"),
        (["id", "url"], None, None),
        ([None, "png"], "png", None),  # what a CSV row has beyond its columns is under None
    ],
)
def test_known_names_are_found_whatever_their_case(
    names: list, image: str | None, caption: str | None
) -> None:
    assert Columns().find_image(names) == image
    assert Columns().find_caption(names) == caption


def test_chosen_columns_come_before_known_ones_and_must_be_there() -> None:
    columns = Columns("photo_id", "alt")
    names = ["image", "photo_id", "caption", "alt"]
    assert (columns.find_image(names), columns.find_caption(names)) == ("photo_id", "alt")
    assert columns.find_image(["image"]) is None and columns.find_caption(["caption"]) is None


def test_errors_name_the_columns_and_suggest_one() -> None:
    error = Columns("imag").image_missing(["image", "caption"], "a.csv")
    assert error.message == "no column `imag` in a.csv"
    assert error.hint == "columns found: image, caption; choose with `--image-column image`"
    error = Columns().caption_missing(["file_name", "captoin", "id"], "a.csv")
    assert error.message == "no column with captions in a.csv"
    assert error.hint.endswith("choose with `--caption-column captoin`")


def test_columns_from_strangers_are_printable_in_errors() -> None:
    error = Columns("\x1b[31m").image_missing(["\x1b[32m"], "a.csv")
    assert "\x1b" not in error.message + error.hint


@pytest.mark.parametrize(
    ("value", "captions"), [("a", ["a"]), (["a", "b"], ["a", "b"]), (None, []), ([], [])]
)
def test_a_cell_holds_no_caption_one_or_several(value: object, captions: list[str]) -> None:
    assert captions_in({"text": value}, ["text"]) == captions
    assert captions_in({"text": value}, []) == []


@pytest.mark.parametrize("value", [1, {"a": "b"}, [1], ["a", None]])
def test_other_values_are_no_captions(value: object) -> None:
    with pytest.raises(BadSample, match="`text` must be text or a list of texts"):
        captions_in({"text": value}, ["text"])


@pytest.mark.parametrize("empty", [[], "", None, [" "], " \t"])
def test_what_is_empty_hides_no_caption(empty: object) -> None:
    row = {"captions": empty, "caption": "good", "text": "another"}
    assert captions_in(row, Columns().find_captions(row)) == ["good"]
    assert captions_in(row, Columns(caption="captions").find_captions(row)) == []


@pytest.mark.parametrize("name", ["url", "URL", "image_url"])
def test_addresses_are_told_from_pictures(name: str) -> None:
    error = Columns().image_missing([name, "TEXT"], "a.csv")
    assert error.message == f"no column with pictures in a.csv, but addresses in `{name}`"
    assert error.hint == "download the pictures first, as with img2dataset"
