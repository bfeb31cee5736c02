"""A folder of tokens as a source: read across shards, split like its pictures, fingerprinted."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from layouts import keys, pairs, samples, write_files

from dalle_cli.data.sources import Source, TokenSource, open_dataset, validation_split
from dalle_cli.data.token_shards import (
    EncodedSample,
    Encoding,
    shard_path,
    write_record,
    write_shard,
)
from dalle_cli.errors import DalleError, UsageError

NO_CHECKSUMS = np.empty((0, 32), np.uint8)
ENCODING = Encoding(dvae="abc", precision="fp32", grid_size=2, vocab_size=100, copies=1)


def encode(source: Source, folder: Path, shard_size: int = 4, left_out: int | None = None) -> str:
    """Write a folder of tokens: sample i is made of the token i."""
    folder.mkdir()
    starts = range(0, len(source), shard_size)
    for number, start in enumerate(starts):
        indices = [i for i in range(start, min(start + shard_size, len(source))) if i != left_out]
        rows = [
            EncodedSample(source.key(i), source.captions(i), np.full((2, 4), i)) for i in indices
        ]
        write_shard(
            shard_path(folder, number), ENCODING, samples=rows, bad=[], checksums=NO_CHECKSUMS
        )
    problems = [("\x1b[31mred", "made bad")]
    write_record(folder, ENCODING, n_shards=len(starts), problems=problems, n_lost=5)
    return str(folder)


@pytest.fixture
def pictures(tmp_path: Path) -> Source:
    return open_dataset(
        write_files(tmp_path / "pictures", pairs(*(f"sub/{i:02d}" for i in range(11)))),
        captions_required=True,
    )


@pytest.fixture
def tokens(pictures: Source, tmp_path: Path) -> TokenSource:
    return open_dataset(
        encode(pictures, tmp_path / "tokens"), captions_required=True, tokens_allowed=True
    )


def test_samples_are_the_same_as_those_encoded(pictures: Source, tokens: TokenSource) -> None:
    assert len(tokens) == 11 and keys(tokens) == keys(pictures)
    for index, (left, right) in enumerate(zip(samples(pictures), samples(tokens), strict=True)):
        assert (
            (left.key, left.captions)
            == (right.key, right.captions)
            == (tokens.key(index), tokens.captions(index))
        )
        assert right.image_tokens.tolist() == [[index] * 4] * 2


def test_problems_of_the_pictures_are_told_again_and_printable(tokens: TokenSource) -> None:
    assert tokens.problems == [("\ufffd[31mred", "made bad")]


def test_what_the_pictures_lost_counts_for_their_tokens(tokens: TokenSource) -> None:
    assert tokens.n_lost == 5


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5])
def test_split_is_that_of_the_pictures(pictures: Source, tokens: TokenSource, share: float) -> None:
    for left, right in zip(
        validation_split(pictures, share), validation_split(tokens, share), strict=True
    ):
        assert left.tolist() == right.tolist()


def test_sample_left_out_moves_no_other_to_the_other_side(pictures: Source, tmp_path: Path) -> None:
    tokens = open_dataset(
        encode(pictures, tmp_path / "tokens", left_out=5),
        captions_required=True,
        tokens_allowed=True,
    )
    sides = [
        {source.key(int(i)) for i in validation_split(source, 0.3)[1]} - {pictures.key(5)}
        for source in (pictures, tokens)
    ]
    assert sides[0] == sides[1] and len(tokens) == 10


def test_source_survives_pickling(tokens: TokenSource) -> None:
    copy = pickle.loads(pickle.dumps(tokens))
    assert keys(copy) == keys(tokens) and copy.fingerprint() == tokens.fingerprint()
    assert copy.read(9).image_tokens.tolist() == tokens.read(9).image_tokens.tolist()


def test_fingerprint_is_that_of_the_content(
    pictures: Source, tokens: TokenSource, tmp_path: Path
) -> None:
    again = TokenSource(encode(pictures, tmp_path / "again"))
    other = TokenSource(encode(pictures, tmp_path / "other", left_out=5))
    assert again.fingerprint() == tokens.fingerprint() != other.fingerprint()


def test_tokens_are_refused_where_pictures_are_needed(tokens: TokenSource) -> None:
    with pytest.raises(UsageError, match="holds image tokens, not pictures") as caught:
        open_dataset(tokens.name, captions_required=False)
    assert "train-transformer" in caught.value.hint


def test_missing_shard_is_named(tokens: TokenSource) -> None:
    shard_path(Path(tokens.name), 1).unlink()
    with pytest.raises(DalleError, match=r"cannot read .*tokens-00001\.safetensors: No such"):
        open_dataset(tokens.name, captions_required=True, tokens_allowed=True)


def test_shard_in_the_place_of_another_is_told(tokens: TokenSource) -> None:
    shard_path(Path(tokens.name), 2).replace(shard_path(Path(tokens.name), 1))
    with pytest.raises(DalleError):
        open_dataset(tokens.name, captions_required=True, tokens_allowed=True)


def test_changed_byte_is_found_by_its_checksum(tokens: TokenSource) -> None:
    assert tokens.damaged() == []
    path = shard_path(Path(tokens.name), 1)
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    assert TokenSource(tokens.name).damaged() == [(str(path), "does not match its checksum")]
