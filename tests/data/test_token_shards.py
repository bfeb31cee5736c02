"""Shards of tokens: they give back what was written, are whole or not there, and tell damage."""

import json
from pathlib import Path

import numpy as np
import pytest

from dalle_cli.data.images import BadSample
from dalle_cli.data.token_shards import (
    EncodedSample,
    Encoding,
    TokenShard,
    is_encoded,
    read_record,
    shard_path,
    write_record,
    write_shard,
)
from dalle_cli.errors import DalleError
from dalle_cli.storage.run_dir import ENCODING

NO_CHECKSUMS = np.empty((0, 32), np.uint8)


def encoding(vocab_size: int = 100) -> Encoding:
    return Encoding(dvae="abc", precision="fp32", grid_size=2, vocab_size=vocab_size, copies=2)


def made(n: int, vocab_size: int = 100) -> list[EncodedSample]:
    rng = np.random.default_rng(n)
    keys = ["", "sub/a", "\udcff", "\u202ered", "猫"]
    captions = [["a\nb"], ["one", "two"], ["猫 ☃"], ["x" * 1000], ["\x1b[31m"]]
    return [
        EncodedSample(f"{keys[i % 5]}{i}", captions[i % 5], rng.integers(0, vocab_size, (3, 4)))
        for i in range(n)
    ]


def write_folder(folder: Path, *sizes: int) -> Path:
    for number, size in enumerate(sizes):
        write_shard(
            shard_path(folder, number),
            encoding(),
            samples=made(size),
            bad=[(f"bad {number}", "made bad")],
            checksums=NO_CHECKSUMS,
        )
    problems = [("elsewhere", "picture without caption")]
    write_record(folder, encoding(), n_shards=len(sizes), problems=problems, n_lost=3)
    return folder


@pytest.mark.parametrize(
    ("vocab_size", "dtype"), [(100, "uint16"), (2**16, "uint16"), (2**16 + 1, "int32")]
)
def test_shard_gives_back_what_was_written_in_as_few_bytes(
    tmp_path: Path, vocab_size: int, dtype: str
) -> None:
    samples = made(7, vocab_size)
    samples[3].image_tokens[0, 0] = vocab_size - 1
    write_shard(
        tmp_path / "shard",
        encoding(vocab_size),
        samples=samples,
        bad=[("key", "reason")],
        checksums=NO_CHECKSUMS,
    )
    shard = TokenShard(tmp_path / "shard", encoding(vocab_size))
    assert len(shard) == 7 and shard.bad == [("key", "reason")]
    for place, sample in enumerate(samples):
        assert shard.text(place) == (sample.key, sample.captions)
        assert shard.image_tokens(place).dtype == dtype
        assert shard.image_tokens(place).tolist() == sample.image_tokens.tolist()
    assert list(tmp_path.iterdir()) == [tmp_path / "shard"]


def test_shard_may_be_read_by_whom_any_file_may_be(tmp_path: Path) -> None:
    write_shard(tmp_path / "shard", encoding(), samples=made(1), bad=[], checksums=NO_CHECKSUMS)
    (tmp_path / "plain").touch()
    assert (tmp_path / "shard").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_record_sums_up_the_shards_even_an_empty_one(tmp_path: Path) -> None:
    record = read_record(write_folder(tmp_path, 3, 0, 2))
    assert (record.samples, [shard.samples for shard in record.shards]) == (5, [3, 0, 2])
    assert record.encoding == encoding()
    assert record.bad == [
        ("elsewhere", "picture without caption"),
        *((f"bad {n}", "made bad") for n in range(3)),
    ]


def test_folder_without_a_usable_sample_gets_no_record(tmp_path: Path) -> None:
    with pytest.raises(DalleError, match="not one usable sample") as caught:
        write_folder(tmp_path, 0)
    assert "made bad" in caught.value.hint and not (tmp_path / ENCODING).exists()


def test_folder_is_encoded_once_its_record_is_there(tmp_path: Path) -> None:
    assert not is_encoded(tmp_path)
    write_shard(
        shard_path(tmp_path, 0), encoding(), samples=made(2), bad=[], checksums=NO_CHECKSUMS
    )
    with pytest.raises(DalleError, match="encoding was not finished") as caught:
        is_encoded(tmp_path)
    assert "data encode" in caught.value.hint
    write_record(tmp_path, encoding(), n_shards=1, problems=[], n_lost=0)
    assert is_encoded(tmp_path)


@pytest.mark.parametrize("n_bytes", [0, 5, 200, -1])
def test_shard_cut_short_is_told(tmp_path: Path, n_bytes: int) -> None:
    write_shard(tmp_path / "shard", encoding(), samples=made(4), bad=[], checksums=NO_CHECKSUMS)
    (tmp_path / "shard").write_bytes((tmp_path / "shard").read_bytes()[:n_bytes])
    with pytest.raises(DalleError, match="shard is not a shard of image tokens"):
        TokenShard(tmp_path / "shard", encoding())


def test_checksums_of_what_was_encoded_come_back(tmp_path: Path) -> None:
    checksums = np.random.default_rng(0).integers(0, 256, (5, 32), dtype=np.uint8)
    write_shard(tmp_path / "shard", encoding(), samples=made(4), bad=[], checksums=checksums)
    np.testing.assert_array_equal(TokenShard(tmp_path / "shard", encoding()).checksums(), checksums)


def test_shard_of_another_encoding_is_told_with_both_shapes(tmp_path: Path) -> None:
    write_shard(tmp_path / "shard", encoding(), samples=made(4), bad=[], checksums=NO_CHECKSUMS)
    other = encoding().model_copy(update={"copies": 5})
    with pytest.raises(DalleError, match=r"U16 \[4, 3, 4\] instead of U16 \[4, 6, 4\]"):
        TokenShard(tmp_path / "shard", other)


def test_token_outside_the_vocabulary_makes_its_sample_bad(tmp_path: Path) -> None:
    samples = made(3)
    samples[1].image_tokens[2, 3] = 100
    write_shard(tmp_path / "shard", encoding(), samples=samples, bad=[], checksums=NO_CHECKSUMS)
    shard = TokenShard(tmp_path / "shard", encoding())
    with pytest.raises(BadSample, match="damaged image tokens"):
        shard.image_tokens(1)
    assert shard.image_tokens(2).tolist() == samples[2].image_tokens.tolist()


@pytest.mark.parametrize(
    ("text", "damage"),
    [
        (b'["sub/a1"', b'["sub/a1\x00'),
        (b'"one", "two"', b'"one", 11111'),
        (b'"one"', b"\xff\xfe\xff\xfe\xff"),
    ],
)
def test_damaged_text_makes_its_sample_bad(tmp_path: Path, text: bytes, damage: bytes) -> None:
    path = tmp_path / "shard"
    write_shard(path, encoding(), samples=made(3), bad=[], checksums=NO_CHECKSUMS)
    content = path.read_bytes()
    assert content.count(text) == 1 and len(text) == len(damage)
    path.write_bytes(content.replace(text, damage))
    shard = TokenShard(path, encoding())
    with pytest.raises(BadSample, match="damaged key or captions"):
        shard.text(1)
    assert shard.text(2) == (made(3)[2].key, made(3)[2].captions)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"samples": 6}, "do not add up to 6"),
        ({"schema_version": 2}, "schema_version"),
        ({"shards": [{"samples": -1, "sha256": ""}]}, "shards.0.samples"),
        ({"encoding": {}}, "encoding.dvae"),
        ({"more": 1}, "more"),
    ],
    ids=str,
)
def test_damaged_record_is_told_by_key(tmp_path: Path, change: dict, told: str) -> None:
    path = write_folder(tmp_path, 3, 2) / ENCODING
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DalleError, match=told):
        read_record(tmp_path)
    path.write_text("[")
    with pytest.raises(DalleError, match="is damaged"):
        read_record(tmp_path)
