"""Parquet: embedded pictures come a row group at a time, named ones like those of a manifest."""

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from layouts import keys, pairs, problems, samples, write_files, write_tar

from dalle_cli.data.images import BadSample
from dalle_cli.data.sources import Columns, Sample, Source, open_dataset
from dalle_cli.data.sources.tabular import row_groups
from dalle_cli.errors import DalleError, UsageError

pa = pytest.importorskip("pyarrow", reason="the extra `datasets` is not installed")
pq = pytest.importorskip("pyarrow.parquet")


def write_parquet(path: Path, rows: list[dict], group: int = 2, **schema: object) -> str:
    """Write rows, so many to a group; columns may be given a type, or `metadata`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    metadata = schema.pop("metadata", None)
    for name, kind in schema.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, table.column(name).cast(kind))
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=group)
    return str(path)


def rows(*numbers: int) -> list[dict]:
    return [
        {"id": n, "image": {"bytes": b"%d" % n, "path": f"{n}.png"}, "text": f"number {n}"}
        for n in numbers
    ]


def opened(spec: object, **columns: str) -> Source:
    return open_dataset(str(spec), captions_required=True, columns=Columns(**columns))


def test_rows_become_samples_across_groups_and_files(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "train-0.parquet", rows(0, 1, 2))
    write_parquet(tmp_path / "data" / "train-1.parquet", rows(3, 4, 5, 6, 7))
    expected = [Sample(f"train-0/{n}", b"%d" % n, [f"number {n}"]) for n in range(3)]
    expected += [Sample(f"train-1/{n - 3}", b"%d" % n, [f"number {n}"]) for n in range(3, 8)]
    for spec in ("", "data", "data/train-*.parquet", "data/train-{0..1}.parquet"):
        source = opened(tmp_path / spec)
        assert samples(source) == expected
        assert keys(source) == [sample.key for sample in expected]
        assert source.captions(4) == ["number 4"]
        assert source.form == "2 parquet files, pictures in `image`, captions in `text`"


def test_loose_pictures_beside_rows_that_hold_pictures_are_asked_about(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", rows(0, 1, 2))
    folder = write_files(tmp_path, {"preview.png": b"1"})
    with pytest.raises(UsageError, match=r"both \.parquet files \(1\) and loose pictures \(1\)"):
        opened(folder)


def test_rows_that_name_pictures_leave_a_folder_as_it_is(tmp_path: Path) -> None:
    write_parquet(tmp_path / "rows.parquet", [{"file_name": "a.jpg", "text": "one"}])
    folder = write_files(tmp_path, pairs("a"))
    assert samples(opened(folder)) == [Sample("a", b"picture a", ["caption a"])]


def test_plain_bytes_are_pictures_whatever_their_column_is_called(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", [{"scan": b"1", "captions": ["a", "b"], "n": 1}])
    assert samples(opened(file)) == [Sample("a/0", b"1", ["a", "b"])]


def test_paths_name_pictures_beside_the_file(tmp_path: Path) -> None:
    write_files(tmp_path, {"p/a.png": b"1", "p/b.png": b"2"})
    listed = [
        {"file_name": "p/a.png", "text": "one"},
        {"file_name": "p/gone.png", "text": "two"},
        {"file_name": "p/a.png", "text": "again"},
    ]
    source = opened(write_parquet(tmp_path / "a.parquet", listed))
    assert samples(source) == [Sample("p/a", b"1", ["one", "again"])]
    assert problems(source) == {" row 2": f"no such file in {tmp_path}: p/gone.png"}


def test_a_cell_may_name_its_picture_instead_of_holding_it(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": b"1"})
    cells = [{"image": {"bytes": None, "path": name}, "text": "x"} for name in ("a.png", "b.png")]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    source = opened(write_parquet(tmp_path / "a.parquet", cells, image=kind))
    assert source.read(0).image == b"1"
    with pytest.raises(BadSample, match=r"no such file in .*: b\.png"):
        source.read(1)


def test_names_of_classes_are_captions(tmp_path: Path) -> None:
    features = b'{"info": {"features": {"label": {"names": ["a bird", "a cat"]}}}}'
    classes = [{"img": b"1", "label": 1}, {"img": b"2", "label": 0}, {"img": b"3", "label": -1}]
    path = tmp_path / "a.parquet"
    source = opened(write_parquet(path, classes, metadata={"huggingface": features}))
    assert [source.captions(0), source.captions(1)] == [["a cat"], ["a bird"]]
    with pytest.raises(BadSample, match="picture without caption"):
        source.read(2)
    with pytest.raises(DalleError, match="no column with captions"):
        opened(write_parquet(path, classes))


def test_faulty_rows_are_bad_samples(tmp_path: Path) -> None:
    faulty = [{"image": None, "text": "x"}, {"image": b"1", "text": None}, {"image": b"2"}]
    file = write_parquet(tmp_path / "a.parquet", [*faulty, {"image": b"3", "text": " "}])
    source = opened(file)
    reasons = ["row without picture", *["picture without caption"] * 3]
    for index, reason in enumerate(reasons):
        with pytest.raises(BadSample, match=reason):
            source.read(index)
    assert open_dataset(file, captions_required=False).read(1).captions == []


def test_columns_are_chosen_or_refused_by_name(tmp_path: Path) -> None:
    table = [{"a": b"1", "b": b"2", "image": "x.png", "words": "w", "n": 3}]
    file = write_parquet(tmp_path / "t.parquet", table)
    assert samples(opened(file, image="b", caption="words")) == [Sample("t/0", b"2", ["w"])]
    with pytest.raises(DalleError, match="no column with captions") as caught:
        opened(file)
    assert "columns found: a, b, image, words, n" in caught.value.hint
    with pytest.raises(DalleError, match=r"column `n` of .* holds int64, not text") as caught:
        opened(file, image="b", caption="n")
    assert caught.value.hint == "columns with text: image, words"
    with pytest.raises(DalleError, match="no column `gone`"):
        opened(file, image="gone")


def test_a_file_that_lacks_the_columns_of_the_first_is_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "0.parquet", rows(0))
    write_parquet(tmp_path / "1.parquet", [{"image": b"1", "alt": "x"}])
    with pytest.raises(DalleError, match=r"no column `text` in .*1\.parquet"):
        opened(tmp_path)


def test_only_the_groups_read_last_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = [{"image": bytes(1000), "text": "x"} for _ in range(10)]
    file = write_parquet(tmp_path / "a.parquet", big)
    groups = row_groups.RowGroups()
    monkeypatch.setattr(row_groups, "KEPT_BYTES", 5000)
    for number in (0, 1, 0, 2):
        assert groups.read(file, number, names=["image"]).num_rows == 2
    assert [key[1] for key in groups._kept] == [0, 2]
    monkeypatch.setattr(row_groups, "KEPT_BYTES", 0)
    groups.read(file, 3, names=["image"])
    assert [key[1] for key in groups._kept] == [3]


def test_threads_and_other_processes_read_the_same(tmp_path: Path) -> None:
    source = opened(write_parquet(tmp_path / "a.parquet", rows(*range(20)), group=3))
    expected = samples(source)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(source.read, range(20))) == expected
    copy = pickle.loads(pickle.dumps(source))
    assert samples(copy) == expected and copy.fingerprint() == source.fingerprint()


def test_fingerprint_sees_rows_sizes_and_columns(tmp_path: Path) -> None:
    table = [{**row, "alt": row["text"]} for row in rows(0, 1)]
    one = write_parquet(tmp_path / "1" / "a.parquet", table)
    same = write_parquet(tmp_path / "2" / "a.parquet", table)
    more = write_parquet(tmp_path / "3" / "a.parquet", [*table, table[0]])
    prints = [opened(file).fingerprint() for file in (one, same, more)]
    prints.append(opened(one, caption="alt").fingerprint())
    assert prints[0] == prints[1] and len(set(prints)) == 3


def test_img2dataset_parquet_gives_the_captions_that_its_shard_lacks(tmp_path: Path) -> None:
    write_tar(tmp_path / "00000.tar", [(f"{n}.jpg", b"%d" % n) for n in range(3)])
    write_tar(tmp_path / "00001.tar", [("7.jpg", b"7"), ("7.txt", b"own"), ("8.jpg", b"8")])
    beside = [{"key": str(n), "caption": f"number {n}"} for n in (2, 0, 7, 8)]
    for shard in ("00000", "00001"):
        write_parquet(tmp_path / f"{shard}.parquet", [*beside, {"key": "1", "caption": None}])
    source = opened(tmp_path)
    assert samples(source) == [
        Sample("0", b"0", ["number 0"]),
        Sample("2", b"2", ["number 2"]),
        Sample("7", b"7", ["own"]),
    ]
    assert problems(source) == {
        "00000.tar:1.jpg": "picture without caption",
        "00001.tar:8.jpg": "picture without caption",
    }
    assert source.form == "2 tar shards with captions from parquet files beside them"
    assert samples(pickle.loads(pickle.dumps(source))) == samples(source)


@pytest.mark.parametrize("content", [b"", b"no parquet", b"PAR1" + bytes(20) + b"PAR1"])
def test_damaged_files_are_errors_that_name_them(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(DalleError, match=r"a\.parquet"):
        opened(tmp_path / "a.parquet")


@pytest.mark.thorough
def test_pyarrow_is_imported_for_parquet_alone(tmp_path: Path) -> None:
    folder = write_files(tmp_path, {"a.jpg": b"1", "a.txt": b"one"})
    script = (
        "import sys\nfrom dalle_cli.data.sources import open_dataset\n"
        f"open_dataset({folder!r}, captions_required=True)\nassert 'pyarrow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
