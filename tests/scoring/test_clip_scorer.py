"""A CLIP opened to score: what its checksums tell apart."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.errors import DalleError
from dalle_cli.loading import build_clip, trained_clip_table
from dalle_cli.recipe import load_recipe
from dalle_cli.scoring.clip_scorer import ClipScorer, load_clip_scorer
from dalle_cli.storage.integrity.checksums import checksummed_json
from dalle_cli.storage.run_dir import RunDir

LEARNERS = {"youtokentome": "tokenizers", "tokenizers": "youtokentome"}


def opened(path: Path, vocabulary: Path | None = None) -> ClipScorer:
    return load_clip_scorer(str(path), vocabulary, device=torch.device("cpu"), precision="fp32")


def test_scores_depend_on_the_vocabulary_and_embeddings_do_not(
    own_clip_run: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "merges.json"
    other.parent.mkdir()
    own_file = RunDir(own_clip_run).tokenizer
    learnt_with = Tokenizer.load(own_file).learnt_with
    document = json.loads(own_file.read_text("utf-8")) | {"learnt_with": LEARNERS[learnt_with]}
    other.write_bytes(checksummed_json(document, ensure_ascii=False))
    own, another = opened(own_clip_run), opened(own_clip_run, other)
    assert own.checksum == another.checksum and own.identity != another.identity


def test_copy_of_a_clip_scores_alike(own_clip_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(own_clip_run, tmp_path / "copy")
    assert opened(copy).identity == opened(own_clip_run).identity


def test_embeddings_of_another_precision_are_others(own_clip_run: Path) -> None:
    own = opened(own_clip_run)
    assert replace(own, precision="bf16").embedding_key != own.embedding_key
    assert replace(own, checksum="another").embedding_key != own.embedding_key


def test_clip_without_a_vocabulary_cannot_score(own_clip_run: Path) -> None:
    shutil.rmtree(own_clip_run / "tokenizer")
    with pytest.raises(DalleError, match="has no vocabulary"):
        opened(own_clip_run)


def test_what_is_assumed_of_a_public_clip_is_warned_of_once(
    own_clip_run: Path, tmp_path: Path
) -> None:
    sizes = [
        f"model.{tower}.{size}"
        for tower in ("vision", "text")
        for size in ("d_model=64", "n_heads=1")
    ]  # as in a file that does not state them
    vocabulary = RunDir(own_clip_run).tokenizer
    n_tokens = Tokenizer.load(vocabulary).vocab_size
    clip = build_clip(trained_clip_table(load_recipe("clip/tiny", sizes).model, n_tokens))
    for name, n_warnings in (("mine.pt", 1), ("mine-quickgelu.pt", 0)):
        torch.save(clip.state_dict(), tmp_path / name)
        warnings = list(opened(tmp_path / name, vocabulary).warnings(["a ring", "a ring"]))
        assert len(warnings) == n_warnings
        assert all("does not state its activation" in warning for warning in warnings)
