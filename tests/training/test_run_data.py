"""The data of a run: what is said of each source, and runs on several that resume as they were."""

import gzip
import json
import shutil
import tarfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from dalle_cli.config import DataTable
from dalle_cli.console import Terminal
from dalle_cli.data.loader import TooManyBadSamples
from dalle_cli.data.sources import Columns
from dalle_cli.errors import DalleError
from dalle_cli.training import run_data
from dalle_cli.training.run_data import RunData, open_run_data

TINY = ["--set", "runtime.workers=0", "--set", "training.global_batch_size=4"]


def opened(*specs: object, valid: object = None, captions_required: bool = False) -> RunData:
    return open_run_data(
        [str(spec) for spec in specs],
        None if valid is None else str(valid),
        columns=Columns(),
        table=DataTable(validation_share=0.1, shuffle_block=64, max_bad_share=0.1),
        captions_required=captions_required,
        tokens_allowed=False,
        terminal=Terminal(quiet=True),
    )


@pytest.fixture
def rings(make_pairs: Callable, tmp_path: Path) -> Path:
    """A second source, with a file that is not read."""
    folder = make_pairs(tmp_path / "rings", 8)
    (folder / "clip.mp4").touch()
    return folder


def test_one_source_is_described_by_its_form(pairs: Path) -> None:
    text = opened(pairs).training.describe()
    assert text == f"data: {pairs}: folder of pictures with .txt captions"


def test_each_of_several_sources_is_described_with_its_share(pairs: Path, rings: Path) -> None:
    training = opened(pairs, f"{rings}@0.3").training
    (first, second) = training.describe().splitlines()
    n_samples = [n for n, _ in training.streams]
    assert first.endswith(f"captions; {n_samples[0]} samples, 70.0% of all draws")
    assert second.startswith(f"data: {rings}: folder of pictures")
    assert second.endswith(f"{n_samples[1]} samples, 30.0% of all draws; not read: 1 .mp4")


def test_shares_are_of_the_samples_that_train(pairs: Path, rings: Path) -> None:
    data = opened(pairs, rings)
    counts = [n for n, _ in data.training.streams]
    total = len(data.training.indices)
    assert [share for _, share in data.training.streams] == [Fraction(n, total) for n in counts]
    assert total + len(data.validation.indices) == 23 + 8
    assert len(data.sources) == 4


def test_lost_samples_count_before_anything_is_written(
    make_pairs: Callable, tmp_path: Path, dalle: Callable
) -> None:
    """Of four shards of six pairs one is whole, and a pair is left of another."""
    shards = tmp_path / "shards"
    shards.mkdir()
    with tarfile.open(shards / "00000.tar", "w") as tar:
        for file in sorted(make_pairs(tmp_path / "pairs", 6).iterdir()):
            tar.add(file, file.name)
    whole = (shards / "00000.tar").read_bytes()
    contents = {"00001": whole[:2200], "00002": gzip.compress(whole), "00003": b""}
    for name, content in contents.items():
        (shards / f"{name}.tar").write_bytes(content)

    words = ["train-dvae", "dvae/tiny", "--data", shards, "--run", tmp_path / "run", *TINY]
    refused = dalle(*words, "--dry-run")
    assert refused.code == 1 and not (tmp_path / "run").exists()
    assert "17 of 24 samples are lost, more than `data.max_bad_share` allows: 2" in refused.err
    assert "--set data.max_bad_share=0.71" in refused.err
    assert dalle(*words, "--set", "data.max_bad_share=0.71", "--dry-run").code == 0


def test_a_few_lost_samples_are_trained_without(make_pairs: Callable, tmp_path: Path) -> None:
    folder = make_pairs(tmp_path / "birds", 18)
    for number in range(2):
        (folder / f"other-{number}.tiff").touch()
    assert opened(folder).training.source.n_lost == 2
    (folder / "one-more.tiff").touch()
    with pytest.raises(DalleError, match="3 of 21 samples are lost"):
        opened(folder)


@pytest.mark.parametrize("encoding", ["gbk", "latin-1"])
def test_captions_of_another_encoding_are_told_as_such(
    encoding: str, make_pairs: Callable, tmp_path: Path
) -> None:
    folder = make_pairs(tmp_path / "birds", 8)
    for file in folder.glob("*.txt"):
        file.write_bytes(("ü" if encoding == "latin-1" else "红").encode(encoding))
    with pytest.raises(DalleError, match="not one usable caption in") as caught:
        list(opened(folder, captions_required=True).training.captions())
    assert caught.value.hint.startswith("7 x caption is not UTF-8 (00")
    assert "iconv -f GBK -t UTF-8" in caught.value.hint


def test_captions_are_chosen_evenly_where_a_few_suffice(pairs: Path) -> None:
    training = opened(pairs).training
    everything = list(training.captions())
    assert list(training.captions(len(everything))) == everything
    middle = everything[(len(everything) - 1) // 2]
    assert list(training.captions(3)) == [everything[0], middle, everything[-1]]


def test_held_out_data_may_be_named_for_several_sources(pairs: Path, rings: Path) -> None:
    data = opened(pairs, rings, valid=rings)
    assert len(data.training.indices) == 31 and len(data.validation.indices) == 8
    assert data.held_out == data.validation.source.fingerprint() and len(data.sources) == 3


def as_one_line(text: str) -> str:
    """Join the lines of commands that were broken for a terminal."""
    return " ".join(text.replace("\\\n", " ").split())


@pytest.mark.thorough
def test_run_on_several_sources_resumes_as_if_it_had_not_stopped(
    pairs: Path, rings: Path, tmp_path: Path, dalle: Callable, fixed_schedules: Callable
) -> None:
    schedules = fixed_schedules("dvae", 3)

    def train(run: str, steps: int, *specs: object) -> str:
        data = [word for spec in specs for word in ("--data", spec)]
        changes = [*TINY, *schedules, "--set", f"training.steps={steps}"]
        ended = dalle("train-dvae", "dvae/tiny", *data, "--run", tmp_path / run, *changes)
        assert ended.code == 0, ended.err
        return ended.err

    def weights(run: str) -> bytes:
        return (tmp_path / run / "model" / "model.safetensors").read_bytes()

    both = [pairs, f"{rings}@0.3"]
    shown = train("whole", 6, *both)
    assert "30.0% of all draws" in shown
    assert f"--data {pairs} --data {rings}@0.3" in as_one_line(shown)
    train("stopped", 3, *both)
    assert "samples have changed" not in train("stopped", 6, *both)
    assert weights("stopped") == weights("whole")

    train("first", 6, pairs)
    assert weights("first") != weights("whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "other")
    assert "samples have changed" in train("other", 7, pairs, f"{rings}@0.4")


def test_columns_reach_training_and_the_next_command(
    pairs: Path, tmp_path: Path, dalle: Callable
) -> None:
    table = tmp_path / "table.jsonl"
    rows = [{"pic": str(path), "words": "a ring"} for path in sorted(pairs.glob("*.png"))]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["train-dvae", "dvae/tiny", "--data", table, "--run", tmp_path / "run", *TINY]

    refused = dalle(*words, "--dry-run")
    assert refused.code == 1 and "choose with `--image-column pic`" in refused.err
    columns = ["--image-column", "pic", "--caption-column", "words"]
    ended = dalle(*words, *columns, "--set", "training.steps=1")
    assert ended.code == 0, ended.err
    assert "pictures in `pic`, captions in `words`" in ended.err
    assert f"--data {table} {' '.join(columns)} --dvae" in as_one_line(ended.err)


def test_captions_that_cannot_be_read_are_counted(make_pairs: Callable, tmp_path: Path) -> None:
    """Whoever reads all captions, to learn a vocabulary, knows that before the first step."""
    folder = make_pairs(tmp_path / "data", 12)
    (folder / "002.txt").write_bytes(b"\xff\xfe")
    (folder / "003.txt").write_bytes(b"\n")
    data = opened(folder, captions_required=True)
    (folder / "004.txt").unlink()
    training = data.training
    keys = {training.source.key(int(index)) for index in training.indices}
    n_bad = len(keys & {"002", "003", "004"})
    share = n_bad / len(training.indices)
    usable = list(training.captions(max_bad_share=share))
    assert n_bad >= 2 and len(usable) == len(training.indices) - n_bad
    with pytest.raises(TooManyBadSamples, match=f"{n_bad} samples are bad, more than"):
        list(training.captions(max_bad_share=share * 0.99))


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"BM a bitmap"])
@pytest.mark.parametrize("command", ["train-dvae", "train-clip"])
def test_pictures_whose_headers_are_bad_are_counted_before_the_first_step(
    make_pairs: Callable, dalle: Callable, tmp_path: Path, command: str, content: bytes
) -> None:
    folder = make_pairs(tmp_path / "data", 12)
    for picture in sorted(folder.glob("*.png"))[:4]:
        picture.write_bytes(content)
    recipe = f"{command.removeprefix('train-')}/tiny"
    refused = dalle(command, recipe, "--data", folder, "--run", tmp_path / "run", *TINY)
    assert refused.code == 1
    assert "samples are bad, more than `data.max_bad_share` allows: 1" in refused.err
    assert "skipped" not in refused.err and not (tmp_path / "run").exists()


def test_of_many_pictures_some_are_looked_at(
    make_pairs: Callable,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    folder = make_pairs(tmp_path / "data", 40)
    monkeypatch.setattr(run_data, "MOST_HEADERS", 10)
    opened(folder)
    assert capsys.readouterr().err == ""
    for picture in sorted(folder.glob("*.png"))[::2]:
        picture.write_bytes(b"")
    opened(folder)
    told = capsys.readouterr().err
    assert "of 10 pictures that were looked at are bad" in told and "hint:" in told


def test_pictures_of_which_none_that_is_looked_at_is_good_are_refused(
    make_pairs: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = make_pairs(tmp_path / "data", 40)
    monkeypatch.setattr(run_data, "MOST_HEADERS", 10)
    for picture in folder.glob("*.png"):
        picture.write_bytes(b"")
    with pytest.raises(DalleError, match="not one usable sample in 10 that were looked at of"):
        opened(folder)


def test_bad_captions_are_left_to_who_reads_captions(make_pairs: Callable, tmp_path: Path) -> None:
    folder = make_pairs(tmp_path / "data", 12)
    for caption in folder.glob("*.txt"):
        caption.write_bytes(b"\n")
    with pytest.raises(DalleError, match="not one usable caption"):
        list(opened(folder, captions_required=True).training.captions())
