"""`data encode`, and training on its output: the same tokens, losses and split as with pictures."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dalle_cli.commands.data import encoded_folder
from dalle_cli.data.preprocessing import TransformerPreprocessing
from dalle_cli.data.shuffling import derive_seed
from dalle_cli.data.sources import TokenSource, open_dataset
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.loading import load_dvae
from dalle_cli.storage.run_dir import ENCODING, RunDir

FIXED = {"optimizer__lr__steps": 2, "optimizer__warmup_steps": 2}  # whatever the run's length
ONE_STEP = ["--set", "training.steps=1", "--set", "runtime.workers=0"]


@pytest.fixture
def encode(dvae_run: Path, dalle: Callable) -> Callable:
    """Encode a data set with the shared dVAE."""
    return lambda data, out, *words: dalle(
        "data", "encode", data, "--dvae", dvae_run, "--out", out, "--precision", "fp32", *words
    )


@pytest.fixture(scope="module")
def tokens(
    tmp_path_factory: pytest.TempPathFactory, pairs: Path, dvae_run: Path, dalle: Callable
) -> Path:
    """A copy of each shared pair, whose pictures leave a crop no choice; for reading only."""
    out = tmp_path_factory.mktemp("tokens") / "tokens"
    ended = dalle(
        "data",
        "encode",
        pairs,
        "--dvae",
        dvae_run,
        "--out",
        out,
        "--copies",
        1,
        "--precision",
        "fp32",
    )
    assert (ended.code, ended.out) == (0, f"{out}\n"), ended.err
    assert f"writing {out}" in ended.err
    assert f"next: dalle train-transformer transformer/tiny --data {out}" in ended.err
    return out


@pytest.fixture
def own_tokens(tokens: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tokens, tmp_path / "tokens")


@pytest.fixture
def train(dvae_run: Path, dalle: Callable, settings: Callable) -> Callable:
    """Train a tiny transformer, with changes to the shared settings."""

    def train(data: Path, run: Path, *words: object, dvae: Path = dvae_run, **changes: object):
        own = ["--data", data, "--dvae", dvae, "--run", run, *settings(**changes)]
        return dalle("train-transformer", "transformer/tiny", *own, *words)

    return train


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded_folder, "SHARD_SAMPLES", 5)


def write_wide_pairs(folder: Path, n: int) -> Path:
    """Write pictures that leave a crop much choice, and that no two crops of are alike."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    for i in range(n):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 8, 3), dtype=np.uint8))
        coarse.resize((96, 60), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"number {i}\nno. {i}\n")
    return folder


def lines_of(run: Path) -> list[dict[str, float]]:
    timed = ("_per_second", "mfu", "peak_memory_gib", "train/seconds")
    lines = [json.loads(line) for line in RunDir(run).metrics.read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if not name.endswith(timed)} for line in lines
    ]


def test_tokens_are_the_dvaes_of_what_training_would_cut(
    tmp_path: Path, encode: Callable, dvae_run: Path, small_shards: None
) -> None:
    data, copies = write_wide_pairs(tmp_path / "data", 12), 3
    assert encode(data, tmp_path / "tokens", "--copies", copies, "--batch-size", 7).code == 0
    pictures, tokens = (
        open_dataset(str(data), captions_required=True),
        TokenSource(str(tmp_path / "tokens")),
    )
    prepare = TransformerPreprocessing(32, 8, Tokenizer([], "tokenizers"), 0.0, 0.0)
    dvae = load_dvae(dvae_run)
    n_distinct = 0
    for index in range(12):
        seeds = [None, *(derive_seed(index, copy) for copy in range(copies))]
        crops = np.stack([prepare(pictures.read(index), seed).pixels for seed in seeds]).transpose(
            0, 3, 1, 2
        )
        expected = dvae.image_tokens(torch.from_numpy(crops).float() / 255)
        sample = tokens.read(index)
        assert sample.image_tokens.tolist() == expected.tolist()
        assert (sample.key, sample.captions) == (str(pictures.key(index)), pictures.captions(index))
        n_distinct += len({row.tobytes() for row in sample.image_tokens})
    assert n_distinct > 12  # the codebook of so young a dVAE tells few crops apart


@pytest.mark.thorough
def test_training_on_tokens_equals_training_on_the_pictures(
    tmp_path: Path, train: Callable, tokens: Path, transformer_run: Path
) -> None:
    ended = train(tokens, tmp_path / "run")
    assert ended.code == 0, ended.err
    found, expected = lines_of(tmp_path / "run"), lines_of(transformer_run)
    assert len(found) == len(expected) > 11
    for left, right in zip(found, expected, strict=True):
        assert left == pytest.approx(right, rel=1e-6)
    previews = [RunDir(run).preview(11).read_bytes() for run in (tmp_path / "run", transformer_run)]
    assert previews[0] == previews[1]


@pytest.mark.thorough
def test_held_out_pictures_may_come_as_pictures(
    tmp_path: Path, train: Callable, tokens: Path, pairs: Path
) -> None:
    figures = []
    for name, valid in (("tokens", tokens), ("pictures", pairs)):
        assert train(tokens, tmp_path / name, "--valid", valid, training__steps=1).code == 0
        figures.append(lines_of(tmp_path / name)[-1])
    assert "valid/loss" in figures[0] and figures[0] == pytest.approx(figures[1], rel=1e-6)


@pytest.mark.thorough
def test_resumed_training_equals_uninterrupted_training(
    tmp_path: Path, encode: Callable, train: Callable
) -> None:
    data = write_wide_pairs(tmp_path / "data", 12)
    assert encode(data, tmp_path / "tokens", "--copies", 3).code == 0
    assert train(tmp_path / "tokens", tmp_path / "whole", **FIXED).code == 0
    assert train(tmp_path / "tokens", tmp_path / "cut", training__steps=6, **FIXED).code == 0
    ended = train(tmp_path / "tokens", tmp_path / "cut", **FIXED)
    assert ended.code == 0 and "resumed after step 6" in ended.err
    whole, cut = (
        (tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "cut")
    )
    assert whole == cut


@pytest.mark.thorough
def test_more_copies_train_otherwise_than_one(
    tmp_path: Path, encode: Callable, train: Callable
) -> None:
    data, losses = write_wide_pairs(tmp_path / "data", 12), []
    for copies in (1, 4):
        assert encode(data, tmp_path / f"{copies}", "--copies", copies).code == 0
        assert train(tmp_path / f"{copies}", tmp_path / f"run-{copies}").code == 0
        losses.append(
            [
                line["train/loss"]
                for line in lines_of(tmp_path / f"run-{copies}")
                if "train/loss" in line
            ]
        )
    assert losses[0] != losses[1]


def test_another_dvae_is_refused_before_anything_is_written(
    tmp_path: Path, train: Callable, tokens: Path, pairs: Path, dalle: Callable
) -> None:
    other = tmp_path / "other"
    assert dalle("train-dvae", "dvae/tiny", "--data", pairs, "--run", other, *ONE_STEP).code == 0
    ended = train(tokens, tmp_path / "run", dvae=other)
    assert (
        ended.code == 2
        and "was encoded by another dVAE" in ended.err
        and "data encode" in ended.err
    )
    assert train(pairs, tmp_path / "run", "--valid", tokens, dvae=other).code == 2
    assert not (tmp_path / "run").exists()


def test_another_vocabulary_is_refused_with_both_numbers(
    tmp_path: Path, train: Callable, tokens: Path, pairs: Path, dalle: Callable
) -> None:
    other = tmp_path / "other"
    words = [*ONE_STEP, "--set", "model.vocab_size=24"]
    assert dalle("train-dvae", "dvae/tiny", "--data", pairs, "--run", other, *words).code == 0
    ended = train(tokens, tmp_path / "run", dvae=other, model__image_vocab_size=24)
    assert (
        ended.code == 2
        and "out of 24" in ended.err
        and f"{tokens} holds 4x4 tokens out of" in ended.err
    )


@pytest.mark.thorough
def test_run_goes_on_with_its_own_copy_of_the_dvae(
    tmp_path: Path, train: Callable, tokens: Path
) -> None:
    for steps, dvae in ((2, {}), (3, {"dvae": tmp_path / "run"})):
        assert train(tokens, tmp_path / "run", training__steps=steps, **dvae, **FIXED).code == 0


@pytest.mark.parametrize(
    "words", [["train-dvae", "dvae/tiny"], ["train-clip", "clip/tiny"]], ids=str
)
def test_models_that_need_pictures_refuse_tokens(
    words: list[str], tmp_path: Path, tokens: Path, dalle: Callable
) -> None:
    ended = dalle(*words, "--data", tokens, "--run", tmp_path / "run", *ONE_STEP)
    assert ended.code == 2 and "holds image tokens, not pictures" in ended.err
    assert not (tmp_path / "run").exists()


def test_tokens_are_not_encoded_again(tmp_path: Path, tokens: Path, encode: Callable) -> None:
    ended = encode(tokens, tmp_path / "out")
    assert ended.code == 2 and "not pictures" in ended.err and not (tmp_path / "out").exists()


def test_bad_samples_are_told_recorded_and_left_out(
    tmp_path: Path, encode: Callable, dalle: Callable
) -> None:
    data = write_wide_pairs(tmp_path / "data", 6)
    (data / "2.png").write_bytes((data / "2.png").read_bytes()[:-40])
    (data / "4.txt").unlink()
    ended = encode(data, tmp_path / "tokens", "--json")
    assert ended.code == 0 and "skipped 2: damaged or incomplete picture" in ended.err
    assert json.loads(ended.out) == {
        "out": str(tmp_path / "tokens"),
        "samples": 4,
        "copies": 4,
        "bad": 2,
    }
    checked = json.loads(dalle("data", "check", tmp_path / "tokens", "--json").out)
    assert checked["samples"] == 4 and checked["captions"] == 8
    assert checked["bad"] == [
        {"where": str(data / "4.png"), "reason": "picture without caption"},
        {"where": "2", "reason": "damaged or incomplete picture"},
    ]


def test_nothing_usable_is_an_error_and_no_folder_of_tokens(
    tmp_path: Path, encode: Callable, train: Callable
) -> None:
    data = write_wide_pairs(tmp_path / "data", 2)
    for i in range(2):
        (data / f"{i}.png").write_bytes(b"no picture")
    ended = encode(data, tmp_path / "tokens")
    assert ended.code == 1 and "not one usable sample" in ended.err
    assert train(tmp_path / "tokens", tmp_path / "run").code == 1


def test_check_sums_up_a_folder_of_tokens(tokens: Path, dalle: Callable) -> None:
    shown = dalle("data", "check", tokens)
    assert shown.code == 0 and "23 usable" in shown.out and "4x4 of the centred crop" in shown.out
    facts = json.loads(dalle("data", "check", tokens, "--json").out)
    record = json.loads((tokens / ENCODING).read_text())
    assert (facts["samples"], facts["captions"], facts["bad"]) == (23, 23, [])
    assert (
        facts["dvae"] == record["encoding"]["dvae"]
        and 0 < facts["codes_used"] <= facts["vocab_size"]
    )


def test_check_finds_a_changed_byte(own_tokens: Path, dalle: Callable) -> None:
    path = own_tokens / "tokens-00000.safetensors"
    content = path.read_bytes()
    path.write_bytes(
        content.replace(b"ring", b"rong") if b"ring" in content else content[:-3] + b"xyz"
    )
    facts = json.loads(dalle("data", "check", own_tokens, "--json").out)
    assert {"where": str(path), "reason": "does not match its checksum"} in facts["bad"]


def test_shard_cut_short_stops_training_before_it_begins(
    own_tokens: Path, tmp_path: Path, train: Callable
) -> None:
    path = own_tokens / "tokens-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    ended = train(own_tokens, tmp_path / "run")
    assert ended.code == 1 and f"{path} is not a shard of image tokens" in ended.err
    assert not (tmp_path / "run").exists()


def test_stopped_encoding_is_not_taken_for_whole_and_goes_on(
    tmp_path: Path,
    pairs: Path,
    encode: Callable,
    train: Callable,
    tree: Callable,
    small_shards: None,
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert encode(pairs, whole).code == 0
    assert len(list(whole.glob("*.safetensors"))) == 5
    shutil.copytree(whole, cut)
    for name in (ENCODING, "tokens-00003.safetensors", "tokens-00004.safetensors"):
        (cut / name).unlink()
    kept = (cut / "tokens-00002.safetensors").stat().st_mtime_ns
    ended = train(cut, tmp_path / "run")
    assert ended.code == 1 and f"encoding was not finished: {cut}" in ended.err
    ended = encode(pairs, cut)
    assert ended.code == 0 and "15 samples are there already" in ended.err
    assert (
        tree(cut) == tree(whole) and (cut / "tokens-00002.safetensors").stat().st_mtime_ns == kept
    )


def test_finished_folder_stays_as_it_is(
    own_tokens: Path, pairs: Path, encode: Callable, tree: Callable
) -> None:
    before = tree(own_tokens)
    assert encode(pairs, own_tokens, "--copies", 1).code == 0
    assert tree(own_tokens) == before


def test_tokens_of_pictures_that_were_read_otherwise_are_not_taken_for_whole(
    own_tokens: Path, pairs: Path, encode: Callable, tree: Callable
) -> None:
    job = json.loads((own_tokens / "job.json").read_text())
    del job["decoding"]  # as before ICC profiles were applied
    (own_tokens / "job.json").write_text(json.dumps(job))
    before = tree(own_tokens)
    ended = encode(pairs, own_tokens, "--copies", 1)
    assert ended.code == 2 and "other decoding" in ended.err
    assert tree(own_tokens) == before


@pytest.mark.parametrize("case", ["caption", "picture", "bad picture"])
def test_sample_that_changed_at_equal_size_is_told_and_nothing_touched(
    case: str, tmp_path: Path, encode: Callable, tree: Callable, small_shards: None
) -> None:
    data, out = write_wide_pairs(tmp_path / "data", 12), tmp_path / "tokens"
    (data / "3.png").write_bytes(b"no picture")
    assert encode(data, out, "--copies", 1).code == 0
    before = tree(out)

    if case == "caption":
        (data / "7.txt").write_text("number 7\nNo. 7\n")
    elif case == "picture":
        content = bytearray((data / "7.png").read_bytes())
        content[-20] ^= 1
        (data / "7.png").write_bytes(content)
    else:
        (data / "3.png").write_bytes(b"no  picture"[:10])

    ended = encode(data, out, "--copies", 1)
    key = "3" if case == "bad picture" else "7"
    assert ended.code == 2
    assert f"was encoded from other samples: 1 have changed since, such as {key}" in ended.err
    assert "encode into a new folder" in ended.err and tree(out) == before


@pytest.mark.parametrize("case", ["files", "copies", "data"])
def test_folder_of_something_else_is_refused_untouched(
    case: str, own_tokens: Path, pairs: Path, tmp_path: Path, encode: Callable, tree: Callable
) -> None:
    data, copies = pairs, 1
    if case == "files":
        shutil.rmtree(own_tokens)
        own_tokens.mkdir()
        (own_tokens / "notes.md").write_text("mine")
    elif case == "copies":
        copies = 2
    else:
        data = write_wide_pairs(tmp_path / "data", 3)
    before = tree(own_tokens)
    ended = encode(data, own_tokens, "--copies", copies)
    assert (
        ended.code == 2
        and {"files": "already holds", "copies": "other copies", "data": "other data"}[case]
        in ended.err
    )
    assert tree(own_tokens) == before
