"""A run's record: written and read alike, and free of the folder that it was written from."""

from pathlib import Path

import pytest

from dalle_cli.storage.run_dir import RunDir
from dalle_cli.storage.run_record import RunRecord, absolute_source


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = RunRecord(
        recipe={"kind": "dvae"}, command={"name": "train-dvae", "data": ["/birds"]},
        device="cpu", precision="fp32", n_processes=2, engine="ddp", zero=None,
        fingerprint="abc", n_samples=3, held_out="a share", machine="CPU, 2 cores",
    )  # fmt: skip
    record.write(RunDir(tmp_path / "run"))
    assert RunRecord.read(RunDir(tmp_path / "run")) == record


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("birds", "/here/birds"),
        ("../birds/", "/birds"),
        ("/birds", "/birds"),
        ("shards/train-{000..009}.tar", "/here/shards/train-{000..009}.tar"),
        ("hf:owner/name", "hf:owner/name"),
    ],
)
def test_sources_are_named_from_the_root(
    source: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getcwd", lambda: "/here")
    assert absolute_source(source) == expected
