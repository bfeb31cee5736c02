"""`data encode --clip`, and priors trained on its output: what pictures and captions give."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dalle_cli.commands.data import encoded_folder
from dalle_cli.data.sources import EmbeddingSource, open_dataset
from dalle_cli.data.unclip.preprocessing import EmbeddingPreprocessing
from dalle_cli.scoring.clip_scorer import load_clip_scorer
from dalle_cli.storage.run_dir import EMBEDDINGS, RunDir

ONE_STEP = ["--set", "training.steps=1", "--set", "runtime.workers=0"]


@pytest.fixture
def encode(clip_run: Path, dalle: Callable) -> Callable:
    """Embed a data set with the shared CLIP."""
    return lambda data, out, *words: dalle(
        "data", "encode", data, "--clip", clip_run, "--out", out, "--precision", "fp32", *words
    )


@pytest.fixture(scope="module")
def embeddings(
    tmp_path_factory: pytest.TempPathFactory, pairs: Path, clip_run: Path, dalle: Callable
) -> Path:
    """Two copies of each shared pair; for reading only."""
    out = tmp_path_factory.mktemp("embeddings") / "embeddings"
    words = ["--clip", clip_run, "--out", out, "--copies", 2, "--precision", "fp32"]
    ended = dalle("data", "encode", pairs, *words)
    assert (ended.code, ended.out) == (0, f"{out}\n"), ended.err
    assert f"writing {out}" in ended.err
    assert f"next: dalle train-prior RECIPE --data {out} --clip {clip_run}" in ended.err
    return out


@pytest.fixture
def own_embeddings(embeddings: Path, tmp_path: Path) -> Path:
    return shutil.copytree(embeddings, tmp_path / "embeddings")


@pytest.fixture
def train(clip_run: Path, dalle: Callable, tmp_path: Path) -> Callable:
    """Train a tiny prior for one update."""

    def train(data: Path, *words: object, clip: Path = clip_run, kind: str = "prior"):
        shared = ["--data", data, "--clip", clip, "--run", tmp_path / "run", *ONE_STEP]
        return dalle("train-prior", f"{kind}/tiny", *shared, *words)

    return train


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded_folder, "SHARD_SAMPLES", 5)


def test_embeddings_are_clips_of_what_training_would_cut(
    tmp_path: Path, encode: Callable, pairs: Path, clip_run: Path, small_shards: None
) -> None:
    assert encode(pairs, tmp_path / "out", "--copies", 2, "--batch-size", 7).code == 0
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 5
    pictures = open_dataset(str(pairs), captions_required=True)
    source = EmbeddingSource(str(tmp_path / "out"))
    scorer = load_clip_scorer(str(clip_run), None, device=torch.device("cpu"), precision="fp32")
    crop = EmbeddingPreprocessing(32, 2)
    assert len(source) == len(pictures)
    for index in range(len(source)):
        sample = source.read(index)
        assert sample.embeddings is not None
        assert (sample.key, sample.captions) == (str(pictures.key(index)), pictures.captions(index))
        expected = scorer.embed_pictures(list(crop(pictures.read(index), index)))
        np.testing.assert_allclose(sample.embeddings.images, expected.numpy(), atol=1e-5)
        texts = scorer.embed_captions(sample.captions).numpy()
        for caption, text in zip(sample.embeddings.captions, texts, strict=True):
            np.testing.assert_allclose(caption.embedding, text, atol=1e-5)
            assert caption.tokens[-1] == scorer.tokenizer.end_of_text
            assert len(caption.states) == len(caption.tokens)


@pytest.mark.thorough
def test_prior_trains_on_embeddings_nearly_as_on_pictures(
    pairs: Path, encode: Callable, train: Callable, tmp_path: Path
) -> None:
    """Up to the rounding of the captions' slots, and to which crops are cut for training."""
    losses = []
    assert encode(pairs, tmp_path / "out", "--copies", 1).code == 0
    for data in (pairs, tmp_path / "out"):
        ended = train(data, "--valid", data)
        assert ended.code == 0, ended.err
        lines = RunDir(tmp_path / "run").metrics.read_text().splitlines()
        losses.append([json.loads(line).get("valid/loss", 0.0) for line in lines])
        shutil.rmtree(tmp_path / "run")
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.parametrize("kind", ["prior", "prior-autoregressive"])
def test_both_priors_train_without_pictures(
    kind: str, embeddings: Path, train: Callable, tmp_path: Path
) -> None:
    ended = train(embeddings, kind=kind)
    assert ended.code == 0 and "folder of CLIP embeddings" in ended.err, ended.err
    assert RunDir(tmp_path / "run").preview(1).is_file()


def test_source_of_embeddings_can_be_sent_to_another_process(embeddings: Path) -> None:
    source = open_dataset(str(embeddings), captions_required=True, embeddings_allowed=True)
    sent = pickle.loads(pickle.dumps(source))
    assert sent.fingerprint() == source.fingerprint() and len(sent) == len(source)
    for left, right in zip(source.read(3).embeddings, sent.read(3).embeddings, strict=True):
        assert str(left) == str(right)


def test_interrupted_encoding_is_resumed_to_the_same_files(
    tmp_path: Path, encode: Callable, pairs: Path, small_shards: None, tree: Callable
) -> None:
    assert encode(pairs, tmp_path / "whole").code == 0
    parts = shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    (parts / EMBEDDINGS).unlink()
    for number in (1, 3):
        (parts / f"embeddings-{number:05d}.safetensors").unlink()
    ended = encode(pairs, parts)
    assert ended.code == 0 and "are there already" in ended.err
    hashes = [
        {name: digest for name, digest in tree(folder).items() if name.startswith("embeddings")}
        for folder in (parts, tmp_path / "whole")
    ]
    assert hashes[0] == hashes[1] and len(hashes[0]) == 6


def test_unfinished_folder_is_not_trained_on(own_embeddings: Path, train: Callable) -> None:
    (own_embeddings / EMBEDDINGS).unlink()
    ended = train(own_embeddings)
    assert ended.code == 1 and "encoding was not finished" in ended.err


def test_embeddings_of_another_clip_are_refused(
    embeddings: Path, train: Callable, pairs: Path, tmp_path: Path, dalle: Callable
) -> None:
    other = tmp_path / "other"
    words = ["--data", pairs, "--run", other, *ONE_STEP, "--set", "training.seed=1"]
    assert dalle("train-clip", "clip/tiny", *words).code == 0
    ended = train(embeddings, clip=other)
    assert ended.code == 2 and f"was embedded by another CLIP than {other}" in ended.err
    assert "give the CLIP that embedded with `--clip`" in ended.err


def test_damaged_shard_is_told_before_training(
    own_embeddings: Path, train: Callable, tmp_path: Path
) -> None:
    shard = next(own_embeddings.glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    ended = train(own_embeddings)
    assert ended.code == 1 and "does not match its checksum" in ended.err
    assert not (tmp_path / "run").exists()


def test_embeddings_stand_for_pictures_for_priors_alone(
    embeddings: Path, pairs: Path, clip_run: Path, dvae_run: Path, tmp_path: Path, dalle: Callable
) -> None:
    run = ["--run", tmp_path / "run"]
    for words in (
        ["train-decoder", "decoder/tiny", "--data", embeddings, "--clip", clip_run, *run],
        ["train-transformer", "transformer/tiny", "--data", embeddings, "--dvae", dvae_run, *run],
        ["train-clip", "clip/tiny", "--data", embeddings, *run],
        ["data", "check", embeddings],
    ):
        ended = dalle(*words)
        assert ended.code == 2 and "holds CLIP's embeddings, not pictures" in ended.err
    mixed = ["--data", embeddings, "--data", pairs, "--clip", clip_run, *run]
    ended = dalle("train-prior", "prior/tiny", *mixed)
    assert ended.code == 2 and "a folder of CLIP embeddings cannot be mixed" in ended.err


def test_either_model_encodes(pairs: Path, dvae_run: Path, clip_run: Path, dalle: Callable) -> None:
    for words in ([], ["--dvae", dvae_run, "--clip", clip_run]):
        ended = dalle("data", "encode", pairs, "--out", "out", *words)
        assert ended.code == 2 and "give either --dvae or --clip" in ended.err


def test_folder_of_tokens_is_not_filled_with_embeddings(
    pairs: Path, dvae_run: Path, encode: Callable, tmp_path: Path, dalle: Callable
) -> None:
    out = tmp_path / "out"
    assert dalle("data", "encode", pairs, "--dvae", dvae_run, "--out", out).code == 0
    ended = encode(pairs, out)
    assert ended.code == 2 and "belongs to another job" in ended.err
