"""Which samples are evaluated: never those that a run has learnt from, where that can be told."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dalle_cli.data.sources import Columns, open_dataset, validation_split
from dalle_cli.evaluation.evaluated_pairs import (
    EVERYTHING,
    EvaluatedPairs,
    open_evaluated_pairs,
    open_training_pictures,
    read_training_record,
    spread,
)
from dalle_cli.storage.integrity.checksums import checksummed_json
from dalle_cli.storage.run_dir import RunDir


def opened(data: Path, run: Path, n: int = 1000) -> EvaluatedPairs:
    return open_evaluated_pairs(
        str(data), RunDir(run), n=n, captions_required=True, columns=Columns()
    )


def held_out(data: Path) -> list[int]:
    source = open_dataset(str(data), captions_required=True)
    return validation_split(source, 0.1)[1].tolist()


def test_share_that_training_held_out_is_evaluated(pairs: Path, transformer_run: Path) -> None:
    found = opened(pairs, transformer_run)
    assert found.indices.tolist() == held_out(pairs)
    assert found.n_available == 1 and "held out: 0.1" in found.split and not found.warnings


def test_data_with_the_same_content_are_the_training_data(
    pairs: Path, transformer_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "linked").symlink_to(pairs)
    assert opened(tmp_path / "linked", transformer_run).indices.tolist() == held_out(pairs)


def test_data_that_grew_since_training_keep_their_split(
    own_transformer_run: Path, make_pairs: Callable, tmp_path: Path
) -> None:
    more = make_pairs(tmp_path / "more", 60)
    record = json.loads((own_transformer_run / "recipe.json").read_text())
    record["command"]["data"] = [str(more)]
    (own_transformer_run / "recipe.json").write_bytes(checksummed_json(record))
    assert opened(more, own_transformer_run).indices.tolist() == held_out(more)


def test_everything_of_other_data_is_evaluated(
    transformer_run: Path, make_pairs: Callable, tmp_path: Path
) -> None:
    other = make_pairs(tmp_path / "other", 9)
    found = opened(other, transformer_run)
    assert found.indices.tolist() == list(range(9)) and found.split == EVERYTHING


def test_pictures_whose_tokens_were_trained_on_are_split_like_them(
    pairs: Path, dvae_run: Path, own_transformer_run: Path, dalle: Callable, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    assert dalle("data", "encode", pairs, "--dvae", dvae_run, "--out", tokens).code == 0
    record = json.loads((own_transformer_run / "recipe.json").read_text())
    record["command"]["data"] = [str(tokens)]
    record["data"]["fingerprint"] = "of the tokens"
    (own_transformer_run / "recipe.json").write_bytes(checksummed_json(record))
    assert opened(pairs, own_transformer_run).indices.tolist() == held_out(pairs)


def test_run_that_held_nothing_of_its_data_out_is_warned_of(
    pairs: Path, own_transformer_run: Path
) -> None:
    record = json.loads((own_transformer_run / "recipe.json").read_text())
    record["data"]["held_out"] = "the fingerprint of others"
    (own_transformer_run / "recipe.json").write_bytes(checksummed_json(record))
    found = opened(pairs, own_transformer_run)
    assert len(found.indices) == 23 and "was trained on, all of it" in found.warnings[0]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"data": 3}', b'{"data": {"fingerprint": ""}, "recipe": []}']
)
def test_record_that_tells_nothing_holds_nothing_out(
    content: bytes, pairs: Path, own_transformer_run: Path
) -> None:
    (own_transformer_run / "recipe.json").write_bytes(content)
    assert len(opened(pairs, own_transformer_run).indices) == 23


@pytest.mark.parametrize("share", [-0.5, 2, 10**400, "a", None, float("nan")])
def test_share_that_is_none_is_not_taken(share: object, own_transformer_run: Path) -> None:
    record = json.loads((own_transformer_run / "recipe.json").read_text())
    record["recipe"]["data"]["validation_share"] = share
    (own_transformer_run / "recipe.json").write_bytes(checksummed_json(record))
    assert read_training_record(RunDir(own_transformer_run)).fingerprint is None


def test_pairs_and_captions_are_spread_and_drawn_by_the_seed(
    transformer_run: Path, make_pairs: Callable, tmp_path: Path
) -> None:
    other = make_pairs(tmp_path / "other", 30)
    few = opened(other, transformer_run, n=4)
    assert few.indices.tolist() == [0, 9, 19, 29] and few.n_available == 30
    everything = opened(other, transformer_run)
    drawn = [everything.captions(12, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[2])) == 12
    assert everything.captions(10**6, 0) == everything.captions(10**6, 1)  # all, in order


def test_caption_of_several_pictures_is_asked_for_once(
    transformer_run: Path, make_pairs: Callable, tmp_path: Path
) -> None:
    other = make_pairs(tmp_path / "other", 6)
    for number in (2, 4):
        (other / f"{number:03d}.txt").write_text("a ring\n")
    captions = opened(other, transformer_run).captions(100, 0)
    assert len(captions) == 5 and captions.count("a ring") == 1


def test_training_pictures_are_those_of_the_record_without_what_was_held_out(
    pairs: Path, transformer_run: Path
) -> None:
    for spec in (None, str(pairs)):
        found = open_training_pictures(spec, RunDir(transformer_run), n=1000, columns=Columns())
        assert found is not None and found.n_available == 22
        assert set(found.indices.tolist()) == set(range(23)) - set(held_out(pairs))


@pytest.mark.thorough
def test_export_names_no_training_pictures(
    transformer_run: Path, dalle: Callable, tmp_path: Path, make_pairs: Callable
) -> None:
    export = tmp_path / "export"
    assert dalle("export", transformer_run, "--out", export).code == 0
    run, columns = RunDir(export), Columns()
    assert open_training_pictures(None, run, n=10, columns=columns) is None
    other = make_pairs(tmp_path / "other", 9)
    found = open_training_pictures(str(other), run, n=4, columns=columns)
    assert found is not None and (len(found.indices), found.n_available) == (4, 9)


def test_spread_takes_both_ends() -> None:
    np.testing.assert_array_equal(spread(5, 10), [0, 1, 2, 3, 4])
    assert spread(100, 3).tolist() == [0, 49, 99]
