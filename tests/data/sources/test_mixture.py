"""Several sources as one: keys, samples and sides stay; shares follow from weights and sizes."""

import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from layouts import keys, pairs, samples, write_files, write_tar

from dalle_cli.data.sources import MixedSource, open_dataset, open_datasets, validation_split
from dalle_cli.data.sources.mixture import check_weights, shares_of, split_weight
from dalle_cli.data.token_shards import (
    EncodedSample,
    Encoding,
    shard_path,
    write_record,
    write_shard,
)
from dalle_cli.errors import DalleError, UsageError


@pytest.fixture
def specs(tmp_path: Path) -> list[str]:
    """A folder of 30 pairs and a shard of 10."""
    folder = write_files(tmp_path / "a", pairs(*(f"a{n:02d}" for n in range(30))) | {"x.mp4": b""})
    shard = [item for n in range(10) for item in pairs(f"b{n}").items()]
    return [folder, write_tar(tmp_path / "b.tar", [*shard, ("c.jpg", b""), ("d.tiff", b"")])]


def mixed(specs: list[str]) -> MixedSource:
    return open_datasets(specs, captions_required=True)


def test_samples_follow_source_after_source(specs: list[str]) -> None:
    source = mixed(specs)
    alone = [open_dataset(spec, captions_required=True) for spec in specs]
    assert len(source) == 40
    assert samples(source) == samples(alone[0]) + samples(alone[1])
    assert keys(source) == keys(alone[0]) + keys(alone[1])
    assert source.captions(30) == ["caption b0"]
    assert source.problems == alone[1].problems != [] and source.n_lost == alone[1].n_lost == 1
    assert source.unread == {".mp4": 1, ".tiff": 1}
    assert samples(pickle.loads(pickle.dumps(source))) == samples(source)


def test_one_source_is_itself_with_a_weight_or_without(specs: list[str]) -> None:
    alone = open_dataset(specs[0], captions_required=True)
    for spec in (specs[0], f"{specs[0]}@0.3"):
        assert mixed([spec]).fingerprint() == alone.fingerprint()


def test_samples_stay_on_their_side_when_sources_are_mixed(specs: list[str]) -> None:
    def held_out(source: MixedSource) -> set[str]:
        return {source.key(int(index)) for index in validation_split(source, 0.3)[1]}

    apart = [held_out(open_dataset(spec, captions_required=True)) for spec in specs]
    assert held_out(mixed(specs)) == apart[0] | apart[1]
    assert held_out(mixed([f"{specs[0]}@5", f"{specs[1]}@1"])) == apart[0] | apart[1]


def test_fingerprint_sees_sources_their_order_and_their_weights(specs: list[str]) -> None:
    a, b = specs
    variants = [[a, b], [b, a], [a, f"{b}@0.3"], [a, f"{b}@0.4"], [f"{a}@0.7", f"{b}@0.3"]]
    prints = [mixed(variant).fingerprint() for variant in variants]
    assert len(set(prints)) == len(variants)
    assert mixed([a, f"{b}@0.30"]).fingerprint() == prints[2]


@pytest.mark.parametrize(
    ("weights", "counts", "expected"),
    [
        ([None, None], [30, 10], ["3/4", "1/4"]),
        (["2", "1"], [30, 10], ["2/3", "1/3"]),
        (["0.7", "0.3"], [1, 99], ["7/10", "3/10"]),
        ([None, "0.3"], [30, 10], ["7/10", "3/10"]),
        ([None, "0.2", None], [30, 10, 10], ["3/5", "1/5", "1/5"]),
    ],
)
def test_shares_follow_from_weights_and_numbers(
    weights: list[str | None], counts: list[int], expected: list[str]
) -> None:
    given = [None if weight is None else Fraction(weight) for weight in weights]
    shares = shares_of(given, counts)
    assert shares == [Fraction(share) for share in expected] and sum(shares) == 1


def test_streams_count_the_samples_that_train(specs: list[str]) -> None:
    source = mixed([specs[0], f"{specs[1]}@0.3"])
    indices = np.array([0, 5, 29, 30, 39])
    assert source.streams(indices) == [(3, Fraction(7, 10)), (2, Fraction(3, 10))]
    with pytest.raises(DalleError, match=r"no sample of .*b\.tar is left to train on"):
        source.streams(indices[:3])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (["0"], "above 0"),
        (["1", "0.0"], "above 0"),
        ([None, "1"], "leave nothing .* sum to 1"),
        ([None, "0.6", "0.6"], "sum to 1.2"),
    ],
)
def test_weights_that_cannot_be_are_refused(weights: list[str | None], message: str) -> None:
    given = [None if weight is None else Fraction(weight) for weight in weights]
    with pytest.raises(UsageError, match=message):
        check_weights(given)


@pytest.mark.parametrize(
    ("spec", "name", "weight"),
    [
        ("b@0.3", "b", "0.3"),
        ("b/@2", "b/", "2"),
        ("b-*.tar@.5", "b-*.tar", "0.5"),
        ("hf:owner/name:train@0.5", "hf:owner/name:train", "0.5"),
        ("b@0.3@0.4", "b@0.3", "0.4"),
        ("b@x", "b@x", None),
        ("b@-1", "b@-1", None),
        ("b@1e3", "b@1e3", None),
        ("@0.3", "@0.3", None),
    ],
)
def test_weight_follows_the_last_at_sign(spec: str, name: str, weight: str | None) -> None:
    assert split_weight(spec) == (name, None if weight is None else Fraction(weight))


def test_a_name_that_looks_like_a_weight_wins_where_it_exists(
    tmp_path: Path, specs: list[str]
) -> None:
    odd = write_files(tmp_path / "b@0.3", pairs("odd"))
    assert split_weight(odd) == (odd, None)
    source = mixed([specs[0], f"{odd}@0.4"])
    assert keys(source)[-1] == "odd" and source.streams(np.arange(31))[1].share == Fraction(2, 5)


def test_tokens_do_not_mix_with_pictures(tmp_path: Path, specs: list[str]) -> None:
    encoding = Encoding(dvae="abc", precision="fp32", grid_size=2, vocab_size=9, copies=1)
    folder = tmp_path / "tokens"
    folder.mkdir()
    encoded = [EncodedSample("a", ["caption"], np.zeros((2, 4), np.int64))]
    write_shard(
        shard_path(folder, 0),
        encoding,
        samples=encoded,
        bad=[],
        checksums=np.empty((0, 32), np.uint8),
    )
    write_record(folder, encoding, n_shards=1, problems=[], n_lost=0)
    with pytest.raises(UsageError, match="cannot be mixed with pictures"):
        open_datasets([specs[0], str(folder)], captions_required=True, tokens_allowed=True)
