"""The quick walk over headers finds what tarfile finds, and leaves to it what is not plain."""

import io
import random
import tarfile
from pathlib import Path

import pytest
from layouts import BAD, pairs, write_tar

from dalle_cli.data.sources.tar.headers import _scan_with_tarfile, _walk, scan_shard

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
NAMES = ["a.jpg", "./b.txt", "c c.png", "d/e.jpg", "é.txt", "odd\udcff.jpg", f"{'f/' * 60}g.jpg"]


def write_members(path: Path, tar_format: int, *, seed: int = 0) -> Path:
    rng = random.Random(seed)
    names = [*NAMES, *(f"{rng.randrange(10**6)}.jpg" for _ in range(9))]
    with tarfile.open(path, "w", format=tar_format, errors="surrogateescape") as tar:
        for name in rng.sample(names, len(names)):
            member = tarfile.TarInfo(name)
            member.size = rng.choice([0, 1, 511, 512, 513, 3000])
            member.mtime = rng.choice([0, 1700000000.25])  # as webdataset writes it: not whole
            tar.addfile(member, io.BytesIO(rng.randbytes(member.size)))
    return path


@pytest.mark.parametrize("tar_format", FORMATS)
def test_quick_walk_finds_what_tarfile_finds(tmp_path: Path, tar_format: int) -> None:
    path = write_members(tmp_path / "a.tar", tar_format)
    length = path.stat().st_size
    with path.open("rb") as file:
        members, others = _walk(file, length)
    assert len(members) == len(NAMES) + 9 and others == []
    assert (members, []) == _scan_with_tarfile(str(path), length)


@pytest.mark.parametrize("seed", range(60))
def test_damaged_shard_is_told_as_tarfile_tells_it(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = write_members(tmp_path / "a.tar", rng.choice(FORMATS), seed=seed)
    content = bytearray(path.read_bytes())
    for _ in range(rng.randrange(1, 4)):
        content[rng.randrange(len(content) // 512) * 512 + rng.randrange(160)] = rng.randrange(256)
    path.write_bytes(content[: rng.choice([len(content), rng.randrange(len(content))]) or 1])
    assert scan_shard(str(path)) == _scan_with_tarfile(str(path), path.stat().st_size)


@pytest.mark.parametrize("path", sorted((BAD / "shards").glob("*.tar")), ids=lambda path: path.stem)
def test_odd_shard_is_told_as_tarfile_tells_it(path: Path) -> None:
    if length := path.stat().st_size:
        assert scan_shard(str(path)) == _scan_with_tarfile(str(path), length)


@pytest.mark.parametrize("name", ["folder", "folder.jpg"])
@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE])
def test_members_that_are_no_files_are_told_only_where_they_look_like_samples(
    tmp_path: Path, kind: bytes, name: str
) -> None:
    path = Path(write_tar(tmp_path / "a.tar", list(pairs("a").items())))
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.size, member.linkname = kind, 0, "a.jpg"
        tar.addfile(member)
    members, problems = scan_shard(str(path))
    assert [name for name, _ in members] == ["a.jpg", "a.txt"]
    assert problems == ([(name, "not a regular file")] if name.endswith(".jpg") else [])
    assert (members, problems) == _scan_with_tarfile(str(path), path.stat().st_size)


@pytest.mark.parametrize(
    "content",
    [
        b"0 \n",
        b"-5 path=a\n",
        b"12 path=a.jpg",
        b"6 =\n\n\n",
        b"9" * 30,
        b"16 size=000099\n\n",
        b"25 hdrcharset=BINARY bla\n",
    ],
)
def test_odd_extended_headers_end_and_are_left_to_tarfile(tmp_path: Path, content: bytes) -> None:
    header = tarfile.TarInfo("PaxHeaders/a.jpg")
    header.type, header.size = tarfile.XHDTYPE, len(content)
    member = tarfile.TarInfo("a.jpg")
    member.size = 3
    blocks = [header.tobuf(), content.ljust(512, b"\0"), member.tobuf(), b"abc".ljust(512, b"\0")]
    path = tmp_path / "a.tar"
    path.write_bytes(b"".join(blocks) + bytes(1024))
    assert scan_shard(str(path)) == _scan_with_tarfile(str(path), path.stat().st_size)
