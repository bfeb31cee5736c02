"""Data sets by name, with the library itself: offline, a folder of that name stands for the hub."""

import pickle
from pathlib import Path

import pytest
from layouts import samples

from dalle_cli.data.sources import Columns, Sample, open_dataset
from dalle_cli.errors import DalleError, UsageError


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with the data set `owner/birds` of two splits."""
    datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()

    features = datasets.Features(
        {
            "image": datasets.Image(),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["bird", "cat"]),
        }
    )
    for split, numbers in (("train", range(5)), ("test", range(5, 7))):
        table = {
            "image": [{"bytes": b"%d" % n, "path": None} for n in numbers],
            "text": [f"number {n}" for n in numbers],
            "label": [n % 2 for n in numbers],
        }
        folder = tmp_path / "owner" / "birds" / "data"
        folder.mkdir(parents=True, exist_ok=True)
        made = datasets.Dataset.from_dict(table, features=features)
        made.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_data_set_opens_by_name_with_its_pictures_undecoded(hub: Path) -> None:
    source = open_dataset("hf:owner/birds", captions_required=True)
    assert samples(source) == [Sample(f"train/{n}", b"%d" % n, [f"number {n}"]) for n in range(5)]
    assert source.captions(3) == ["number 3"]
    assert source.form == (
        "Hugging Face data set, split train, pictures in `image`, captions in `text`"
    )
    copy = pickle.loads(pickle.dumps(source))
    assert samples(copy) == samples(source) and copy.fingerprint() == source.fingerprint()


def test_splits_and_columns_are_chosen(hub: Path) -> None:
    classes = Columns(caption="label")
    source = open_dataset("hf:owner/birds:test", captions_required=True, columns=classes)
    assert samples(source) == [Sample("test/0", b"5", ["cat"]), Sample("test/1", b"6", ["bird"])]
    other = open_dataset("hf:owner/birds:test", captions_required=True)
    assert source.fingerprint() != other.fingerprint()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("hf:owner/birds:valid", "cannot load owner/birds from the hub: Unknown split"),
        ("hf:owner/gone", "cannot load owner/gone from the hub"),
    ],
)
def test_what_the_library_cannot_load_is_an_error_with_its_reason(
    hub: Path, spec: str, message: str
) -> None:
    with pytest.raises(DalleError, match=message) as caught:
        open_dataset(spec, captions_required=True)
    assert caught.value.hint


@pytest.mark.parametrize("spec", ["hf:", "hf:birds", "hf:../birds/x", "hf:a/b:c:d", "hf:/etc/x"])
def test_other_names_are_refused_before_anything_is_loaded(spec: str) -> None:
    with pytest.raises(UsageError, match="not the name of a data set"):
        open_dataset(spec, captions_required=True)
