"""Which of what is annotated becomes a picture, and what is counted as left out."""

from pathlib import Path

import pytest
from emoji_files import NAMES, write_annotations, write_font

from dalle_cli.data.rendered.emoji_annotations import Annotation, load_annotations
from dalle_cli.data.rendered.emoji_collection import (
    PART_OF_OTHERS,
    SEVERAL_TONES,
    Emoji,
    collect_emoji,
)
from dalle_cli.data.rendered.emoji_font import NOT_DRAWN, SIDE_BY_SIDE, EmojiFont
from dalle_cli.data.rendered.installed_files import annotation_files, find_emoji_fonts
from dalle_cli.errors import DalleError


@pytest.fixture
def font(tmp_path: Path) -> EmojiFont:
    return EmojiFont(write_font(tmp_path / "emoji.ttf"))


def test_what_the_font_draws_is_collected_and_the_rest_counted(
    font: EmojiFont, tmp_path: Path
) -> None:
    annotations = load_annotations(annotation_files(write_annotations(tmp_path / "cldr")))
    collected, left_out = collect_emoji(annotations, font)
    assert [emoji.sequence for emoji in collected] == ["🐶", "🍕", "❤", "👋", "🥇", "🥈"]
    assert left_out == {SIDE_BY_SIDE: 1, PART_OF_OTHERS: 1, NOT_DRAWN: 1}
    assert len(collected) + left_out.total() == len(NAMES)
    assert collected[0] == Emoji("🐶", "🐶", "dog face", ("dog", "face", "pet"), "🐶", "")


def test_emoji_with_the_same_picture_are_one_concept(font: EmojiFont) -> None:
    annotations = {character: Annotation(character, ()) for character in "🥈🐶🥇"}
    collected, _ = collect_emoji(annotations, font)
    assert [emoji.concept for emoji in collected] == ["🥈", "🐶", "🥈"]


def test_people_with_different_skin_tones_are_left_out() -> None:
    try:
        font = EmojiFont(find_emoji_fonts()[0])
    except DalleError as missing:
        pytest.skip(missing.message)
    if font.spelling("👩🏻‍🤝‍👩🏿") is None:
        pytest.skip("this font or this Pillow does not draw them")

    annotations = {text: Annotation(text, ()) for text in ("👩🏻‍🤝‍👩🏿", "👭🏿")}
    collected, left_out = collect_emoji(annotations, font)
    assert [emoji.skin_tone for emoji in collected] == ["dark skin tone"]
    assert left_out == {SEVERAL_TONES: 1}


@pytest.mark.parametrize(
    ("sequence", "name", "stem"),
    [
        ("🐶", "dog face", "1f436-dog-face"),
        ("👋🏻", "waving hand: light skin tone", "1f44b-1f3fb-waving-hand-light-skin-tone"),
        ("#⃣", "keycap: #", "0023-20e3-keycap"),
        ("👒", "woman's hat", "1f452-womans-hat"),
        ("🪅", "piñata", "1fa85-pinata"),
        ("🆗", "OK button", "1f197-ok-button"),
    ],
)
def test_files_have_readable_names_in_ascii(sequence: str, name: str, stem: str) -> None:
    assert Emoji(sequence, sequence, name, (), sequence, "").stem == stem
