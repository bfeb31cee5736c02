"""Every source: all forms give the same samples, fail alike, pickle and can be told apart."""

import csv
import json
import os
import pickle
from pathlib import Path

import pytest
from layouts import every_form, pairs, samples, write_files, write_tar

from dalle_cli.data.sources import Sample, open_dataset, validation_split

EMOJI = Path(__file__).parents[3] / ".." / "shared" / "data" / "emoji-tiny"


def test_folder_shard_and_manifests_give_the_same_samples(tmp_path: Path) -> None:
    files = pairs("000", "001", "dots.in.it", "sub/000")
    folder = write_files(tmp_path / "folder", files)
    shard = write_tar(
        tmp_path / "all.tar", [(f"./{name}", content) for name, content in files.items()]
    )
    rows = [
        (name, files[name[:-3] + "txt"].decode().strip()) for name in files if name.endswith(".jpg")
    ]
    with open(tmp_path / "folder" / "rows.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [("caption", "image"), *((caption, image) for image, caption in rows)]
        )
    lines = [json.dumps({"image": image, "captions": [caption]}) for image, caption in rows]
    (tmp_path / "folder" / "rows.jsonl").write_text("\n".join(lines))
    sources = [
        open_dataset(spec, captions_required=True)
        for spec in (folder, shard, f"{folder}/rows.csv", f"{folder}/rows.jsonl")
    ]
    expected = [
        Sample(key, files[f"{key}.jpg"], [f"caption {key}"])
        for key in ("000", "001", "dots.in.it", "sub/000")
    ]
    assert [samples(source) for source in sources] == [expected] * 4
    assert [source.problems for source in sources] == [[]] * 4
    assert sources[0].fingerprint() == sources[1].fingerprint()
    assert len({validation_split(source, 0.3)[1].tobytes() for source in sources}) == 1


@pytest.mark.skipif(not EMOJI.is_dir(), reason="the shared data are not beside this checkout")
def test_emoji_folder_and_shard_give_the_same_samples() -> None:
    folder = open_dataset(str(EMOJI / "pairs"), captions_required=True)
    shard = open_dataset(str(EMOJI / "emoji-tiny-{000000..000000}.tar"), captions_required=True)
    assert len(folder) == 64
    assert samples(folder) == samples(shard)


def test_missing_captions_are_accepted_where_they_are_not_needed(tmp_path: Path) -> None:
    folder = open_dataset(
        write_files(tmp_path / "folder", {"a.jpg": b"1"}), captions_required=False
    )
    shard = open_dataset(write_tar(tmp_path / "a.tar", [("a.jpg", b"1")]), captions_required=False)
    manifest = open_dataset(
        write_files(tmp_path / "m", {"m.csv": b"image\na.jpg", "a.jpg": b"1"}) + "/m.csv",
        captions_required=False,
    )
    assert [samples(source) for source in (folder, shard, manifest)] == [
        [Sample("a", b"1", [])]
    ] * 3
    assert folder.problems == shard.problems == manifest.problems == []


def test_vanished_files_are_errors_of_the_disk_not_of_the_sample(tmp_path: Path) -> None:
    folder = open_dataset(write_files(tmp_path / "folder", pairs("a")), captions_required=True)
    shard = open_dataset(
        write_tar(tmp_path / "a.tar", list(pairs("a").items())), captions_required=True
    )
    (tmp_path / "folder" / "a.jpg").unlink()
    os.truncate(tmp_path / "a.tar", 515)
    with pytest.raises(FileNotFoundError):
        folder.read(0)
    with pytest.raises(OSError, match="shorter"):
        shard.read(0)


def test_sources_survive_pickling(tmp_path: Path) -> None:
    for source in every_form(tmp_path, pairs("a", "b")):
        copy = pickle.loads(pickle.dumps(source))
        assert samples(copy) == samples(source)
        assert copy.fingerprint() == source.fingerprint()


def test_fingerprint_sees_keys_and_sizes_but_not_contents(tmp_path: Path) -> None:
    variants = {
        "same": {"a.jpg": b"12", "a.txt": b"text"},
        "contents": {"a.jpg": b"34", "a.txt": b"text"},
        "size": {"a.jpg": b"123", "a.txt": b"text"},
        "key": {"b.jpg": b"12", "b.txt": b"text"},
        "more": {"a.jpg": b"12", "a.txt": b"text", "b.jpg": b"12", "b.txt": b"text"},
    }
    prints = {
        name: [s.fingerprint() for s in every_form(tmp_path / name, files)]
        for name, files in variants.items()
    }
    assert prints["same"] == prints["contents"]
    for form in range(3):
        assert len({prints[name][form] for name in ("same", "size", "key", "more")}) == 4
