"""Captions for previews: read from a file, few, and shown beside those held out."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.errors import UsageError
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training.tasks.preview_captions import (
    MAX_PREVIEW_CAPTIONS,
    read_preview_captions,
)


def test_captions_become_tokens_padded_to_the_length_of_the_text(
    tmp_path: Path, transformer_run: Path
) -> None:
    (tmp_path / "captions.txt").write_text("a red ring\n\na blue disk\n")
    tokenizer = Tokenizer.load(RunDir(transformer_run).tokenizer)
    captions = read_preview_captions(tmp_path / "captions.txt").encoded(
        tokenizer, 16, device=torch.device("cpu")
    )
    assert captions.captions == ["a red ring", "a blue disk"]
    assert captions.text_tokens.shape == (2, 16)
    for caption, row in zip(captions.captions, captions.text_tokens.tolist(), strict=True):
        tokens = tokenizer.encode(caption)
        assert row == tokens + [-1] * (16 - len(tokens))


def test_batches_hold_every_caption_once(tmp_path: Path, transformer_run: Path) -> None:
    (tmp_path / "captions.txt").write_text("a\nb\nc\nd\ne\n")
    tokenizer = Tokenizer.load(RunDir(transformer_run).tokenizer)
    captions = read_preview_captions(tmp_path / "captions.txt").encoded(
        tokenizer, 4, device=torch.device("cpu")
    )
    parts = list(captions.batches(2))
    assert [names for names, _ in parts] == [["a", "b"], ["c", "d"], ["e"]]
    assert torch.equal(torch.cat([tokens for _, tokens in parts]), captions.text_tokens)


def test_more_captions_than_a_preview_shows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a ring\n" * (MAX_PREVIEW_CAPTIONS + 1))
    with pytest.raises(UsageError, match="holds 17 captions"):
        read_preview_captions(tmp_path / "captions.txt")


def test_preview_shows_the_captions_of_a_file_that_may_be_given_when_a_run_is_resumed(
    tmp_path: Path,
    own_transformer_run: Path,
    pairs: Path,
    dvae_run: Path,
    dalle: Callable,
    settings: Callable,
) -> None:
    (tmp_path / "captions.txt").write_text("a red ring\na blue disk\n")
    words = ["--data", pairs, "--dvae", dvae_run, "--run", own_transformer_run]
    words += ["--preview-captions", tmp_path / "captions.txt", *settings()]
    run = RunDir(own_transformer_run)
    shutil.rmtree(run.checkpoint(11))
    ended = dalle("train-transformer", "transformer/tiny", *words)
    assert ended.code == 0, ended.err

    widths = []
    for step in (5, 11):
        with Image.open(run.preview(step)) as preview:
            widths.append(preview.width)
    assert widths[1] > widths[0]
