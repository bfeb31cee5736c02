"""Kept indexes: a shard is scanned once, and again whenever it or its index has changed."""

import os
import shutil
from pathlib import Path

import pytest
from layouts import BAD, keys, pairs, samples, write_tar

from dalle_cli.data.sources import Source, open_dataset
from dalle_cli.data.sources.tar.shard_index import index_shard

LONG_AGO = 10**18  # in nanoseconds; indexes of shards that have just changed are not kept


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return write_old(tmp_path / "a.tar", "a", "b", "c")


def write_old(path: Path, *keys: str) -> Path:
    write_tar(path, list(pairs(*keys).items()))
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    return path


def files_in(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


def open_captioned(path: Path) -> Source:
    return open_dataset(str(path), captions_required=True)


def test_unchanged_shard_is_not_scanned_again(cache: Path, shard: Path) -> None:
    before = keys(open_captioned(shard))
    shard.write_bytes(bytes(shard.stat().st_size))
    os.utime(shard, ns=(LONG_AGO, LONG_AGO))
    assert keys(open_captioned(shard)) == before == ["a", "b", "c"]


@pytest.mark.parametrize(("names", "mtime"), [("xyz", LONG_AGO + 1), ("abcdefghij", LONG_AGO)])
def test_changed_shard_is_scanned_again(cache: Path, shard: Path, names: str, mtime: int) -> None:
    open_captioned(shard)
    write_old(shard, *names)
    os.utime(shard, ns=(mtime, mtime))
    for _ in range(2):
        assert keys(open_captioned(shard)) == list(names)
    assert len(files_in(cache)) == 1


def test_shard_that_may_still_be_written_is_not_kept(cache: Path, shard: Path) -> None:
    os.utime(shard)
    assert keys(open_captioned(shard)) == ["a", "b", "c"]
    assert files_in(cache) == []


def test_damaged_index_is_written_anew(cache: Path, shard: Path) -> None:
    expected = samples(open_captioned(shard))
    (file,) = files_in(cache)
    whole = file.read_bytes()
    flipped = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(0, len(whole), 7)]
    for content in [b"", whole[:3], whole[:-1], whole + b"x", b"\0" * 99, *flipped]:
        file.write_bytes(content)
        assert samples(open_captioned(shard)) == expected
        assert file.read_bytes() == whole
    assert files_in(cache) == [file]


@pytest.mark.parametrize("captions_required", [True, False])
def test_kept_index_says_all_that_a_scan_says(
    tmp_path: Path, cache: Path, captions_required: bool
) -> None:
    shards = shutil.copytree(BAD / "shards", tmp_path / "shards")

    def facts() -> tuple:
        source = open_dataset(str(shards), captions_required=captions_required)
        counts = (source.unread, source.n_lost, source.form, source.fingerprint())
        return source.problems, counts, keys(source)

    for path in shards.iterdir():
        os.utime(path, ns=(LONG_AGO, LONG_AGO))
    scanned = facts()
    assert files_in(cache)
    assert facts() == scanned


@pytest.mark.parametrize("home", ["taken", "taken/below", "~"])
def test_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: Path, home: str
) -> None:
    (tmp_path / "taken").write_text("a file where a folder should be")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", home if home == "~" else str(tmp_path / home))
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for _ in range(2):
        assert keys(open_captioned(shard)) == ["a", "b", "c"]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("rank", range(3))
def test_every_process_sees_the_shards_in_the_same_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    for number in range(5):
        write_old(tmp_path / f"{number}.tar", f"{number}-a", f"{number}-b")
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "3")
    expected = [f"{number}-{key}" for number in range(5) for key in "ab"]
    assert keys(open_captioned(tmp_path)) == expected


def test_samples_take_less_than_a_hundred_bytes_each(tmp_path: Path) -> None:
    names = [f"{i:09d}" for i in range(50)]
    index = index_shard(write_tar(tmp_path / "a.tar", list(pairs(*names).items())))
    held = index.places.nbytes + index.captions.nbytes + len(index.keys)
    assert held < 100 * len(names)
