"""Text from outside, made fit for a terminal."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from dalle_cli.errors import printable


@given(st.text())
def test_printable_text_holds_nothing_that_steers_a_terminal(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert len(shown) == len(text)
    assert not any(
        unicodedata.category(character) in ("Cc", "Cs") for character in shown if character != "\t"
    )
    assert not any(
        unicodedata.bidirectional(c) in ("RLO", "LRO", "RLE", "LRE", "PDF", "RLI", "LRI")
        for c in shown
    )
    assert all(a == b or b == "\ufffd" for a, b in zip(text, shown, strict=True))
