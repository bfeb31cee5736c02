"""Text from outside, made fit for a terminal."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from dalle_cli.errors import printable

DIRECTIONS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


@given(st.text())
def test_printable_text_holds_nothing_that_steers_a_terminal(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert len(shown) == len(text)
    assert not any(
        unicodedata.category(character) in ("Cc", "Cs") for character in shown if character != "\t"
    )
    assert not any(unicodedata.bidirectional(c) in DIRECTIONS for c in shown)
    assert all(a == b or b == "\ufffd" for a, b in zip(text, shown, strict=True))


def test_every_character_that_turns_the_direction_is_replaced() -> None:
    turning = [chr(i) for i in range(0x10000) if unicodedata.bidirectional(chr(i)) in DIRECTIONS]
    marks = ["\u061c", "\u200e", "\u200f"]
    assert len(turning) == len(DIRECTIONS)
    assert {printable(character) for character in turning + marks} == {"\ufffd"}
