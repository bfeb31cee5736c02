"""Hugging Face's imagefolder: metadata in any folder give captions to the pictures beside them."""

from pathlib import Path

import pytest
from layouts import keys, pairs, problems, samples, write_files, write_lines

from dalle_cli.data.sources import Columns, Sample, open_dataset
from dalle_cli.errors import DalleError


def test_metadata_give_captions_and_keys_are_those_of_a_plain_folder(tmp_path: Path) -> None:
    folder = write_files(tmp_path, {"a.png": b"1", "sub/b.png": b"2"})
    (tmp_path / "metadata.csv").write_text("file_name,text\nsub/b.png,two\na.png,one\n")
    source = open_dataset(folder, captions_required=True)
    assert samples(source) == [Sample("sub/b", b"2", ["two"]), Sample("a", b"1", ["one"])]
    assert source.form == (
        "Hugging Face folder with metadata.csv, pictures in `file_name`, captions in `text`"
    )


def test_every_folder_may_have_metadata_of_its_own(tmp_path: Path) -> None:
    folder = write_files(tmp_path, {"birds/a.png": b"1", "cats/a.png": b"2"})
    write_lines(tmp_path / "birds" / "metadata.jsonl", [{"file_name": "a.png", "label": "a bird"}])
    (tmp_path / "cats" / "metadata.csv").write_text("file_name,text\na.png,a cat\n")
    source = open_dataset(folder, captions_required=True)
    assert samples(source) == [
        Sample("birds/a", b"1", ["a bird"]),
        Sample("cats/a", b"2", ["a cat"]),
    ]
    assert "metadata.csv and metadata.jsonl" in source.form


def test_pictures_without_a_row_and_rows_without_a_picture_are_told(tmp_path: Path) -> None:
    folder = write_files(tmp_path, {"a.png": b"1", "b.png": b"2"})
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,one\ngone.png,two\n")
    source = open_dataset(folder, captions_required=True)
    assert keys(source) == ["a"] and source.n_lost == 2
    assert problems(source) == {
        "metadata.csv:3": f"no such file in {tmp_path}: gone.png",
        "b.png": "picture that no metadata name",
    }


def test_columns_of_other_names_are_chosen_or_refused_by_name(tmp_path: Path) -> None:
    folder = write_files(tmp_path, pairs("a"))
    (tmp_path / "metadata.csv").write_text("file_name,words\na.jpg,mine\n")
    with pytest.raises(DalleError, match="no column with captions") as caught:
        open_dataset(folder, captions_required=True)
    assert caught.value.hint.endswith("choose with `--caption-column words`")
    chosen = Columns(caption="words")
    source = open_dataset(folder, captions_required=True, columns=chosen)
    assert source.captions(0) == ["mine"]
