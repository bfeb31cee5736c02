"""Words of captions: how they are split, which are kept, and which are not known."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dalle_cli.data.text.known_words import KnownWords, split_words
from dalle_cli.errors import DalleError


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A red-and-blue Bird, (small)!", ["a", "red", "and", "blue", "bird", "small"]),
        ("the dog's 2 balls", ["the", "dog's", "2", "balls"]),
        ("the dog\u2019s 'ball'", ["the", "dog's", "ball"]),
        ("ein GRÜNER Ring", ["ein", "grüner", "ring"]),
        ("लाल पक्षी", ["लाल", "पक्षी"]),
        ("一只红鸟 bird", ["一", "只", "红", "鸟", "bird"]),
        ("🦜 -- ' \x1b \u202e", []),
        ("snake_case", ["snake", "case"]),
    ],
)
def test_captions_are_split_at_all_that_belongs_to_no_word(caption: str, words: list[str]) -> None:
    assert split_words(caption) == words


@given(st.text())
def test_words_of_a_caption_are_the_words_of_its_words(caption: str) -> None:
    words = split_words(caption)
    assert split_words(" ".join(words)) == words


def test_words_that_are_not_known_are_listed_once_in_order() -> None:
    known = KnownWords.of_captions(["a red circle", "A blue ring."])
    assert known.unknown_in("A zebra and a RED octopus, a zebra") == ["zebra", "and", "octopus"]
    assert known.unknown_in("a blue circle") == [] and known.is_complete


def test_most_frequent_words_are_kept_whatever_the_order_of_captions() -> None:
    captions = ["a b c", "a b", "a d"]
    for order in (captions, captions[::-1]):
        known = KnownWords.of_captions(order, most=3)
        assert known == KnownWords(frozenset("abc"), is_complete=False)
    assert KnownWords.of_captions(captions, most=4).is_complete


@pytest.mark.parametrize("is_complete", [True, False])
def test_words_come_back_from_a_file_as_they_went(is_complete: bool, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer" / "words.json"
    known = KnownWords(frozenset({"ring", "grün", "一"}), is_complete=is_complete)
    known.save(path)
    assert KnownWords.load(path) == known
    assert json.loads(path.read_text("utf-8"))["words"] == ["grün", "ring", "一"]
    assert [file.name for file in path.parent.iterdir()] == ["words.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"\xff", b'{"words": []}', b'{"schema_version": 1, "is_complete": true}',
     b'{"schema_version": 1, "is_complete": true, "words": [1]}'],
)  # fmt: skip
def test_file_that_is_no_list_of_words_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "words.json").write_bytes(content)
    with pytest.raises(DalleError, match=r"words\.json is not a list of words"):
        KnownWords.load(tmp_path / "words.json")
