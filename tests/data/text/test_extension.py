"""A tokenizer with more merges: old captions stay as they were, new words get few tokens."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalle_cli.data.text.extension import extend_tokenizer
from dalle_cli.data.tokenizer import MIN_VOCAB_SIZE, Tokenizer, learn_merges

OLD = ["a red square", "a green ring", "a red ring above a green square"]
NEW = ["a purple square", "a purple ring"]


def learn(captions: list[str], vocab_size: int = 400) -> Tokenizer:
    return learn_merges(captions, vocab_size, backend="tokenizers")


def test_new_words_become_single_tokens_and_old_ones_keep_theirs() -> None:
    old = learn(OLD)
    new = extend_tokenizer(old, OLD + NEW, 400)
    assert new.merges[: len(old.merges)] == old.merges
    assert [new.pieces[i] for i in new.encode("a purple ring")] == ["▁a", "▁purple", "▁ring"]
    for caption in OLD:
        assert new.encode(caption) == old.encode(caption)


def test_first_new_merge_is_of_the_most_frequent_pair_of_pieces() -> None:
    old = learn(OLD)
    captions = ["redder redder reddest", "greener ringer ring"]
    new = extend_tokenizer(old, captions, old.vocab_size + 1)
    left, right = new.merges[-1]
    spelt = [
        [old.pieces[i] for i in old.encode(word)] for text in captions for word in text.split()
    ]
    pairs = [pair for word in spelt for pair in pairwise(word)]
    assert pairs.count((left, right)) == max(map(pairs.count, pairs)) > 1


@pytest.mark.parametrize("room", [0, -5])
def test_without_room_the_tokenizer_is_returned_as_it_is(room: int) -> None:
    old = learn(OLD)
    assert extend_tokenizer(old, NEW, old.vocab_size + room) is old


def test_room_is_kept_to() -> None:
    old = learn(OLD)
    assert extend_tokenizer(old, NEW, old.vocab_size + 3).vocab_size == old.vocab_size + 3


def test_order_of_the_captions_makes_no_difference() -> None:
    old = learn(OLD)
    forward, backward = (extend_tokenizer(old, texts, 400) for texts in (NEW, NEW[::-1]))
    assert forward.merges == backward.merges


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_any_captions_extend_any_tokenizer(data: st.DataObject) -> None:
    texts = st.lists(st.text("abé🐱 ", max_size=20), min_size=1, max_size=6)
    old = learn(["ab", *data.draw(texts)], MIN_VOCAB_SIZE + 12)
    captions = data.draw(texts)
    new = extend_tokenizer(old, captions, old.vocab_size + 20)
    assert new.merges[: len(old.merges)] == old.merges
    for caption in captions:
        assert new.decode(new.encode(caption)) == " ".join(caption.lower().split())
        assert len(new.encode(caption)) <= len(old.encode(caption))
