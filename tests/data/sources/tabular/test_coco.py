"""COCO's captions: found with their pictures as COCO lays them out."""

import json
import os
from pathlib import Path

import pytest
from layouts import problems, samples, write_files

from dalle_cli.data.sources import Sample, open_dataset
from dalle_cli.errors import DalleError

COCO = {
    "info": {"year": 2017},
    "images": [
        {"id": 7, "file_name": "0007.jpg", "height": 480},
        {"id": 5, "file_name": "0005.jpg"},
        {"id": 9, "file_name": "gone.jpg"},
        {"id": 4, "file_name": "0004.jpg"},
        {"file_name": "no-number.jpg"},
        "no image",
    ],
    "annotations": [
        {"id": 1, "image_id": 5, "caption": "five\n"},
        {"id": 2, "image_id": 7, "caption": "seven"},
        {"id": 3, "image_id": 5, "caption": "five again"},
        {"id": 4, "image_id": 9, "caption": "nine"},
        {"id": 5, "image_id": 404, "caption": "of no image"},
        {"id": 6, "image_id": [], "caption": "of no image"},
    ],
}
PICTURES = {"0004.jpg": b"4", "0005.jpg": b"5", "0007.jpg": b"7"}


def write_coco(path: Path, content: object = COCO) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("annotations/captions_train2017.json", "train2017"),
        ("annotations/captions_train2017.json", "images/train2017"),
        ("annotations/captions_train2017.json", "images"),
        ("captions_train2017.json", "train2017"),
        ("captions.json", "."),
        ("captions.json", "images"),
    ],
)
def test_pictures_are_found_where_coco_lays_them(tmp_path: Path, file: str, folder: str) -> None:
    write_files(tmp_path / folder, PICTURES)
    source = open_dataset(write_coco(tmp_path / file), captions_required=True)
    assert samples(source) == [
        Sample("0007", b"7", ["seven"]),
        Sample("0005", b"5", ["five", "five again"]),
    ]
    assert problems(source) == {
        " image 9": f"no such file in {os.path.normpath(tmp_path / folder)}: gone.jpg",
        " image 4": "picture without caption",
    }
    assert source.form.startswith("COCO captions, pictures in ")


def test_pictures_suffice_where_captions_are_not_needed(tmp_path: Path) -> None:
    write_files(tmp_path, PICTURES)
    boxes = {"images": COCO["images"], "annotations": [{"image_id": 5, "bbox": [0, 0, 1, 1]}]}
    file = write_coco(tmp_path / "instances.json", boxes)
    assert len(open_dataset(file, captions_required=False)) == 3
    with pytest.raises(DalleError, match="no captions in") as caught:
        open_dataset(file, captions_required=True)
    assert "captions_train2017.json" in caught.value.hint


def test_missing_pictures_are_an_error_that_names_the_folders(tmp_path: Path) -> None:
    file = write_coco(tmp_path / "annotations" / "captions_val2017.json")
    with pytest.raises(DalleError, match=r"found no picture of .*, such as 0007\.jpg") as caught:
        open_dataset(file, captions_required=True)
    assert "val2017" in caught.value.hint and "images" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        ("{", "not JSON", "jsonl"),
        ("[" * 100_000, "not JSON", "jsonl"),
        ('[{"image": "a.jpg"}]', "no column with captions", "columns found: image"),
        ('"a.jpg"', "not COCO's captions", "found something else"),
        ('{"images": {}, "annotations": []}', "not COCO's captions", "found images, annotations"),
        ('{"\\u001b[31m": 1}', "not COCO's captions", "found \ufffd"),
    ],
)
def test_other_json_is_refused(tmp_path: Path, content: str, message: str, hint: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DalleError, match=message) as caught:
        open_dataset(str(tmp_path / "a.json"), captions_required=True)
    assert hint in caught.value.hint
