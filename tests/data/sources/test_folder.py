"""Folders: what is usable in them is found, and what is left out is told."""

import os
from pathlib import Path

import pytest
from layouts import BAD, fault, keys, pairs, problems, samples, write_files

from dalle_cli.data.sources import Sample, open_dataset


def test_folder_of_odd_files_gives_what_is_usable_and_tells_the_rest() -> None:
    source = open_dataset(str(BAD / "pairs"), captions_required=True)
    faults = {source.key(index): fault(source, index) for index in range(len(source))}
    assert {key: reason for key, reason in faults.items() if reason} == {
        "caption-blank-lines": "empty caption",
        "caption-empty": "empty caption",
        "caption-invalid-utf8": "caption is not UTF-8",
        "html-error-page": "web page, not a picture",
        "jpeg-truncated": "damaged or incomplete picture",
        "png-1x1": "picture too small: under 16 pixels on its short side",
        "png-4000x8": "picture too small: under 16 pixels on its short side",
        "png-corrupt-data": "damaged or incomplete picture",
        "png-zero-byte": "empty picture file",
        "text-named-jpg": "not a JPEG, PNG, WebP or GIF picture",
    }
    assert {
        "dots.in.the.name",
        "subfolder/nested",
        "uppercase-extension",
        "two-images-one-caption",
        "caption-utf16",
    } < faults.keys()
    assert not {".hidden", "notes", "caption-missing", "caption-without-image"} & faults.keys()
    assert problems(source) == {
        "caption-missing.jpg": "picture without caption",
        "caption-without-image.txt": "caption without picture",
        "two-images-one-caption.png": "another picture of this name is used",
    }


def test_pictures_without_a_suffix_are_known_by_their_content(tmp_path: Path) -> None:
    picture = b"\xff\xd8\xff\xe0 and so on"
    files = {
        "d41d8cd9": picture,
        "d41d8cd9.txt": b"a hash",
        "sub/7e57": b"\x89PNG\r\n\x1a\n",
        "sub/7e57.txt": b"another",
        "README": b"no picture",
        "Makefile": b"",
        "notes": b"BM",
        "notes.txt": b"beside something else",
        "__init__": picture,
    }
    source = open_dataset(write_files(tmp_path, files), captions_required=True)
    assert samples(source) == [
        Sample("d41d8cd9", picture, ["a hash"]),
        Sample("sub/7e57", b"\x89PNG\r\n\x1a\n", ["another"]),
    ]
    assert problems(source) == {"notes": "unknown suffix or none, not read"}
    assert source.unread == {"no suffix": 4}  # notes, README, Makefile, __init__


def test_what_is_no_plain_file_is_told_and_not_opened(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "folder", pairs("a"))
    os.mkfifo(tmp_path / "folder" / "pipe.jpg")
    (tmp_path / "folder" / "dangling.png").symlink_to("nowhere.png")
    (tmp_path / "folder" / "circle").symlink_to(".")
    (tmp_path / "folder" / "linked.jpg").symlink_to("a.jpg")
    source = open_dataset(folder, captions_required=False)
    assert keys(source) == ["a", "linked"]
    assert problems(source) == {
        "circle": "linked folder, not entered",
        "dangling.png": "not a regular file",
        "pipe.jpg": "not a regular file",
    }


def test_unsupported_formats_are_told_and_count_as_lost(tmp_path: Path) -> None:
    extra = {"b.tiff": b"", "b.txt": b"text", "c.txt": b"no picture", "a.avif": b"another"}
    folder = write_files(tmp_path, pairs("a") | extra)
    (tmp_path / "d.jpg").symlink_to("nowhere.jpg")
    source = open_dataset(folder, captions_required=True)
    assert keys(source) == ["a"] and source.n_lost == 2
    assert problems(source) == {
        "a.avif": "another picture of this name is used",
        "b.tiff": "unsupported picture format",
        "c.txt": "caption without picture",
        "d.jpg": "not a regular file",
    }


@pytest.mark.parametrize(
    "name",
    [
        "@eaDir/a.jpg/SYNOFILE_THUMB_M.jpg",
        "$RECYCLE.BIN/$R0.jpg",
        "$Recycle.Bin/S-1-5/b.jpg",
        "__MACOSX/a.jpg",
        "System Volume Information/c.jpg",
        ".Trash-1000/files/d.jpg",
        "sub/#recycle/e.jpg",
        "lost+found/f.jpg",
        "Thumbs.db",
        "desktop.ini",
    ],
)
def test_what_systems_make_is_left_out_as_hidden_files_are(tmp_path: Path, name: str) -> None:
    folder = write_files(tmp_path, pairs("a", "sub/b") | {name: b"thumbnail"})
    source = open_dataset(folder, captions_required=False)
    assert keys(source) == ["a", "sub/b"]
    assert source.problems == [] and source.unread == {} and source.n_lost == 0


def test_folder_of_a_systems_name_is_read_when_it_is_named(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "@Recycle", pairs("a"))
    assert keys(open_dataset(folder, captions_required=True)) == ["a"]
