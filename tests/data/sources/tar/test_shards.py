"""Tar shards: whole samples alone come out, however members are mixed, doubled, odd or cut off."""

import gzip
import io
import random
import tarfile
from pathlib import Path

import pytest
from layouts import BAD, fault, pairs, problems, samples, write_tar

from dalle_cli.data.sources import Sample, open_dataset
from dalle_cli.errors import DalleError

CUT = "cut short or damaged after {} members, the rest is lost"

DUPLICATE = "duplicate: the first file of this name is used"


@pytest.mark.parametrize(
    ("name", "good", "bad", "expected_problems"),
    [
        ("truncated", ["000000", "000001", "000002", "000003", "000004"], [], {"": CUT.format(10)}),
        (
            "missing-members",
            ["000000", "000003"],
            [],
            {"000001.jpg": "picture without caption", "000002.txt": "caption without picture"},
        ),
        (
            "interleaved-and-duplicate-keys",
            ["000000", "000001", "000002"],
            [],
            {"000002.jpg": DUPLICATE, "000002.txt": DUPLICATE},
        ),
        ("bad-image-inside", ["000000", "000004"], ["000001", "000002", "000003"], {}),
        ("extra-members", ["000000", "sub/dir/000001"], [], {}),
        (
            "path-traversal",
            ["000000", "../escaped"],
            [],
            {"link.jpg": "not a regular file", "link.txt": "caption without picture"},
        ),
    ],
)
def test_shard_gives_its_whole_samples_and_tells_the_rest(
    name: str, good: list[str], bad: list[str], expected_problems: dict[str, str]
) -> None:
    source = open_dataset(str(BAD / "shards" / f"{name}.tar"), captions_required=True)
    faults = {source.key(index): fault(source, index) for index in range(len(source))}
    assert [key for key, reason in faults.items() if not reason] == good
    assert [key for key, reason in faults.items() if reason] == bad
    assert problems(source) == expected_problems


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("zero-byte", "empty file"),
        ("not-a-tar", "not a tar file, or a compressed one"),
        ("empty", "no members"),
    ],
)
def test_shard_without_samples_is_an_error_alone_and_a_problem_among_others(
    name: str, reason: str
) -> None:
    with pytest.raises(DalleError, match="no captioned pictures") as caught:
        open_dataset(str(BAD / "shards" / f"{name}.tar"), captions_required=True)
    assert reason in caught.value.hint
    assert (
        problems(open_dataset(str(BAD / "shards"), captions_required=True))[f"{name}.tar"] == reason
    )


def test_lost_shards_count_as_much_as_their_neighbours_hold(tmp_path: Path) -> None:
    samples_of = [[f"{shard}-{i}" for i in range(n)] for shard, n in enumerate((6, 8, 6, 6, 6, 6))]
    paths = [
        Path(write_tar(tmp_path / f"{number:05d}.tar", list(pairs(*names).items())))
        for number, names in enumerate(samples_of)
    ]
    paths[2].write_bytes(paths[2].read_bytes()[: 2 * 4 * 512 + 100])  # two pairs are whole
    paths[3].write_bytes(gzip.compress(paths[3].read_bytes()))
    paths[4].write_bytes(b"")
    write_tar(paths[5], [])  # whole, and empty
    source = open_dataset(str(tmp_path), captions_required=True)
    assert len(source) == 6 + 8 + 2
    usual = (6 + 8 + 0) / 3
    assert source.n_lost == round(usual - 2) + 2 * round(usual)


def test_shard_that_is_lost_alone_counts_at_least_once(tmp_path: Path) -> None:
    whole = Path(write_tar(tmp_path / "a.tar", list(pairs("a", "b").items()))).read_bytes()
    assert open_dataset(str(tmp_path), captions_required=True).n_lost == 0
    (tmp_path / "a.tar").write_bytes(whole[: 4 * 512 + 100])
    source = open_dataset(str(tmp_path), captions_required=True)
    assert (len(source), source.n_lost) == (1, 1)


def test_cut_shard_gives_exactly_the_pairs_before_the_cut(tmp_path: Path) -> None:
    members = [(name, content * 60) for name, content in pairs("a", "b", "c").items()]
    whole = Path(write_tar(tmp_path / "whole.tar", members)).read_bytes()
    with tarfile.open(tmp_path / "whole.tar") as tar:
        ends = {member.name: member.offset_data + member.size for member in tar}
    for length in range(512, max(ends.values()) + 512, 128):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        expected = [key for key in "abc" if max(ends[f"{key}.jpg"], ends[f"{key}.txt"]) <= length]
        if expected:
            source = open_dataset(str(tmp_path / "cut.tar"), captions_required=True)
            assert [sample.image for sample in samples(source)] == [
                f"picture {key}".encode() * 60 for key in expected
            ]
            assert "cut short" in problems(source)[""]
        else:
            with pytest.raises(DalleError, match="no captioned pictures"):
                open_dataset(str(tmp_path / "cut.tar"), captions_required=True)


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("seed", range(5))
def test_shuffled_shard_pairs_as_brute_force_does(
    tmp_path: Path, seed: int, tar_format: int
) -> None:
    rng = random.Random(seed)
    stems = ["a", "b.c", "d/a", "é" * 80, "long" * 60, "e e", "f", "g"]
    names = [
        stem + suffix
        for stem in stems
        for suffix in (".jpg", ".txt", ".json", ".parquet")
        if rng.random() < 0.8
    ]
    rng.shuffle(names)
    with tarfile.open(tmp_path / "shuffled.tar", "w", format=tar_format) as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = rng.randrange(1, 2000)
            tar.addfile(
                member, io.BytesIO(f"{name} ".encode().ljust(member.size, b"x")[: member.size])
            )
    with tarfile.open(tmp_path / "shuffled.tar") as tar:
        contents = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
    expected = {
        s: contents[f"{s}.jpg"] for s in stems if f"{s}.jpg" in contents and f"{s}.txt" in contents
    }
    captions = {s: contents[f"{s}.txt"].decode(errors="ignore").strip() for s in expected}
    source = open_dataset(str(tmp_path / "shuffled.tar"), captions_required=False)
    found = {sample.key: sample for sample in samples(source)}
    assert {s: found[s].image for s in expected} == expected
    assert {s: "".join(found[s].captions) for s in expected} == captions
    assert found.keys() == {s for s in stems if f"{s}.jpg" in contents}


def test_first_of_equal_names_is_used_whole(tmp_path: Path) -> None:
    members = [
        ("a.jpg", b"1"),
        ("b.jpg", b"2"),
        ("a.txt", b"first"),
        ("a.JPG", b"3"),
        ("a.txt", b"later"),
        ("b.txt", b"b"),
    ]
    source = open_dataset(write_tar(tmp_path / "a.tar", members), captions_required=True)
    assert samples(source) == [Sample("a", b"1", ["first"]), Sample("b", b"2", ["b"])]
    assert problems(source) == {"a.JPG": DUPLICATE, "a.txt": DUPLICATE}


def test_equal_keys_of_two_shards_stay_two_samples(tmp_path: Path) -> None:
    for number in range(2):
        write_tar(
            tmp_path / f"{number}.tar",
            [("a.jpg", b"%d" % number), ("a.txt", b"caption %d" % number)],
        )
    source = open_dataset(str(tmp_path), captions_required=True)
    assert samples(source) == [Sample("a", b"0", ["caption 0"]), Sample("a", b"1", ["caption 1"])]
