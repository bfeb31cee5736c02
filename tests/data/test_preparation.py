"""Preparation: captions drawn, dropped, tokenised and padded as the recipe says."""

from collections import Counter

import numpy as np
import pytest
from fakes import MemorySource, pair_preparation, png

from dalle_cli.data.preparation import pad_tokens
from dalle_cli.data.sources import Sample


def test_captions_are_dropped_as_often_as_the_recipe_says() -> None:
    share, n = 0.25, 1200
    prepare = pair_preparation(caption_dropout=share)
    sample = MemorySource().read(3)
    examples = [prepare(sample, seed) for seed in range(n)]
    dropped = [example for example in examples if example.caption == ""]
    assert abs(len(dropped) / n - share) < 5 * (share * (1 - share) / n) ** 0.5
    assert all((example.text_tokens == -1).all() and not example.is_cut for example in dropped)


def test_captions_of_a_sample_are_chosen_about_equally_often() -> None:
    sample, n = MemorySource().read(3), 600
    counts = Counter(pair_preparation()(sample, seed).caption for seed in range(n))
    assert set(counts) == set(sample.captions)
    assert abs(counts["3 first"] / n - 0.5) < 5 * (0.25 / n) ** 0.5


def test_bpe_dropout_tokenizes_one_caption_in_several_ways() -> None:
    prepare = pair_preparation(bpe_dropout=0.5)
    sample = Sample("key", png(0), ["first fits"])
    ways = {tuple(prepare(sample, seed).text_tokens.tolist()) for seed in range(50)}
    assert len(ways) > 3
    assert {prepare.tokenizer.decode([token for token in way if token >= 0]) for way in ways} == {"first fits"}


@pytest.mark.parametrize(("caption", "is_cut"), [("abcdef", False), ("abcdefg", True), ("abcdefghijk", True)])
@pytest.mark.parametrize("seed", [None, 0])
def test_captions_with_more_tokens_than_room_are_cut_and_flagged(caption: str, is_cut: bool, seed: int | None) -> None:
    prepare = pair_preparation(text_len=8)
    example = prepare(Sample("key", png(0), [caption]), seed)
    tokens = prepare.tokenizer.encode(caption)
    assert example.is_cut == is_cut == (len(tokens) > 7)
    assert example.text_tokens.tolist() == [*tokens[:7], -1]


def test_padding_keeps_the_last_slot_free() -> None:
    assert pad_tokens([], 3).tolist() == [-1, -1, -1]
    assert pad_tokens([5, 6], 3).tolist() == pad_tokens([5, 6, 7, 8], 3).tolist() == [5, 6, -1]
    assert pad_tokens([5], 3).dtype == np.int64
