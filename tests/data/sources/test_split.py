"""The held-out samples: a matter of their keys' hashes, and stable when data grow."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from layouts import keys, pairs, write_tar

from dalle_cli.data.sources import Source, open_dataset, validation_split
from dalle_cli.errors import DalleError


def keyed_source(tmp_path: Path, n_samples: int) -> Source:
    return open_dataset(
        write_tar(tmp_path / "keyed.tar", list(pairs(*map(str, range(n_samples))).items())),
        captions_required=True,
    )


@pytest.mark.parametrize("share", [0.0, 1e-6, 0.05, 0.3, 0.999999, 1.0])
def test_split_holds_out_the_keys_whose_hash_is_below_the_share(
    tmp_path: Path, share: float
) -> None:
    source = keyed_source(tmp_path, 200)
    fractions = [
        int(hashlib.sha256(key.encode()).hexdigest()[:16], 16) / 2**64 for key in keys(source)
    ]
    below = {index for index, fraction in enumerate(fractions) if fraction < share}
    smallest, largest = int(np.argmin(fractions)), int(np.argmax(fractions))
    train, valid = validation_split(source, share)
    assert train.dtype == valid.dtype == np.int64
    assert set(valid.tolist()) == (below | {smallest}) - {largest}
    assert sorted([*train.tolist(), *valid.tolist()]) == list(range(200))


def test_samples_stay_on_their_side_when_data_grow(tmp_path: Path) -> None:
    small, large = keyed_source(tmp_path, 100), keyed_source(tmp_path, 300)
    held_out = [
        {source.key(i) for i in validation_split(source, 0.1)[1]} for source in (small, large)
    ]
    assert held_out[0] == held_out[1] & set(keys(small))


def test_two_samples_are_split_and_one_is_refused(tmp_path: Path) -> None:
    train, valid = validation_split(keyed_source(tmp_path, 2), 0.05)
    assert len(train) == len(valid) == 1
    with pytest.raises(DalleError, match="too few"):
        validation_split(keyed_source(tmp_path, 1), 0.05)
