"""`data pack`: shards that hold what the source holds, in its order, to the byte."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from dalle_cli.data.images import decode_image
from dalle_cli.data.sources import Sample, open_dataset

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF"}
CAPTIONS = ["a wren", "ein Zaunkönig\n一只鹪鹩\n", "\ufeffa\n\ufeffb", "<b>  tab\there"]


def picture(suffix: str, shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 16), (shade, 0, 0)).save(file, FORMATS[suffix])
    return file.getvalue()


def write_folder(folder: Path) -> Path:
    """Write pictures of all formats, some in folders, under wrong suffixes or without captions."""
    names = [
        "b/1.gif",
        "a.b.jpg",
        "a.png",
        "c c.webp",
        "é.JPG",
        f"{'long' * 50}.png",
        "odd\udcff.jpg",
    ]
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = path.suffix[1:].lower()
        path.write_bytes(picture("png" if name == "a.b.jpg" else suffix, number))
        if name != "c c.webp":
            caption = CAPTIONS[number % len(CAPTIONS)]
            path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return folder


def write_parquet(folder: Path) -> Path:
    import pyarrow
    from pyarrow import parquet

    folder.mkdir()
    rows = [{"image": picture("png", i), "caption": f"caption {i}"} for i in range(4)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    return folder


def write_manifest(folder: Path) -> Path:
    write_folder(folder / "pictures")
    rows = [
        {"image": "pictures/a.png", "caption": "one"},
        {"image": "pictures/../pictures/b/1.gif", "caption": "two"},
        {"image": "pictures/a.png", "caption": "three"},
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


def read_all(spec: Path, **options: bool) -> list[Sample]:
    source = open_dataset(str(spec), **{"captions_required": False} | options)
    return [source.read(index) for index in range(len(source))]


@pytest.mark.parametrize("write", [write_folder, write_parquet, write_manifest])
def test_shards_hold_what_the_source_holds(
    tmp_path: Path, dalle: Callable, write: Callable[[Path], Path]
) -> None:
    source, out = write(tmp_path / "source"), tmp_path / "out"
    ended = dalle("data", "pack", source, "--out", out, "--shard-size", 3)
    assert (ended.code, ended.out) == (0, f"{out}\n"), ended.err
    assert read_all(out) == read_all(source)
    assert read_all(out, captions_required=True) == read_all(source, captions_required=True)
    counts = [len(read_all(shard)) for shard in sorted(out.iterdir())]
    assert max(counts) <= 3 and counts[:-1] == [3] * (len(counts) - 1)


def test_shards_of_shards_are_the_same_to_the_byte(
    tmp_path: Path, dalle: Callable, tree: Callable
) -> None:
    source = write_folder(tmp_path / "source")
    for data, out in ((source, "one"), (source, "two"), (tmp_path / "one", "three")):
        assert dalle("data", "pack", data, "--out", tmp_path / out).code == 0
    assert tree(tmp_path / "one") == tree(tmp_path / "two") == tree(tmp_path / "three")
    with tarfile.open(tmp_path / "one" / "000000.tar") as tar:
        owners = {(member.uid, member.gid, member.mtime, member.mode) for member in tar}
    assert owners == {(0, 0, 0, 0o644)}


def test_equal_keys_stay_two_samples(tmp_path: Path, dalle: Callable) -> None:
    for name in ("one", "two", "three"):
        dalle(
            "data", "pack", write_folder(tmp_path / name / "in"), "--out", tmp_path / name / "out"
        )
        shutil.copy(tmp_path / name / "out" / "000000.tar", tmp_path / f"{name}.tar")
    spec, out = tmp_path / "*.tar", tmp_path / "out"
    assert dalle("data", "pack", spec, "--out", out, "--shard-size", 100).code == 0
    assert read_all(out) == read_all(spec)
    assert len(read_all(out)) == 21 and len(list(out.iterdir())) == 3


def test_bad_samples_are_named_and_left_out(tmp_path: Path, dalle: Callable) -> None:
    source, out = write_folder(tmp_path / "source"), tmp_path / "out"
    (source / "a.png").write_bytes(b"<html>not found</html>")
    (source / "é.JPG").write_bytes(b"BM bitmap")
    (source / "b" / "1.gif").write_bytes(picture("gif", 1)[:40])  # found when it is decoded
    ended = dalle("data", "pack", source, "--out", out, "--json")
    facts = json.loads(ended.out)
    assert (facts["samples"], facts["shards"], facts["with_captions"]) == (5, 1, 4)
    assert {row["where"]: row["reason"] for row in facts["bad"]} == {
        "a": "web page, not a picture",
        "é": "BMP, which is not read: convert it to JPEG or PNG",
    }
    assert "skipped a: web page, not a picture" in ended.err
    assert len(read_all(out)) == 5


def test_nothing_usable_is_an_error_that_leaves_nothing(tmp_path: Path, dalle: Callable) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.jpg").write_bytes(b"no picture")
    ended = dalle("data", "pack", source, "--out", tmp_path / "out")
    assert ended.code == 1 and "error: not one usable sample" in ended.err
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("name", [".hidden.png", "__x__.png", "@eaDir/a.png"])
def test_name_that_shards_ignore_is_refused_before_anything_is_written(
    tmp_path: Path, dalle: Callable, name: str
) -> None:
    path = tmp_path / "source" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(picture("png", 0))
    (tmp_path / "source" / "rows.csv").write_text(f"image,caption\n{name},a\n")
    ended = dalle("data", "pack", tmp_path / "source" / "rows.csv", "--out", tmp_path / "out")
    assert ended.code == 1
    assert f"a shard cannot hold a sample called {name.removesuffix('.png')}" in ended.err
    assert not (tmp_path / "out").exists()


def test_interrupted_command_leaves_nothing(
    tmp_path: Path, dalle: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_folder(tmp_path / "source")

    def interrupt(*_: object) -> Iterator[None]:
        raise KeyboardInterrupt

    monkeypatch.setattr(tarfile.TarFile, "addfile", interrupt)
    assert dalle("data", "pack", source, "--out", tmp_path / "out").code == 130
    assert list(tmp_path.iterdir()) == [source]


def test_folder_that_holds_something_is_refused(tmp_path: Path, dalle: Callable) -> None:
    source = write_folder(tmp_path / "source")
    ended = dalle("data", "pack", source, "--out", source)
    assert ended.code == 2 and "already holds something" in ended.err


def test_pictures_are_copied_as_they_are(tmp_path: Path, dalle: Callable) -> None:
    source, out = write_folder(tmp_path / "source"), tmp_path / "out"
    dalle("data", "pack", source, "--out", out)
    with tarfile.open(out / "000000.tar") as tar:
        assert tar.getnames()[:4] == ["a.b.png", "a.b.txt", "a.png", "a.txt"]
        assert tar.extractfile("a.png").read() == (source / "a.png").read_bytes()
    assert all(decode_image(sample.image).size == (20, 16) for sample in read_all(out))
