"""Captions of emoji: phrases and articles as people type them, and keywords that say enough."""

import pytest

from dalle_cli.data.rendered.emoji_captions import (
    MOST_SHARING,
    CaptionWriter,
    phrase_of,
    with_article,
)
from dalle_cli.data.rendered.emoji_collection import Emoji


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("waving hand: light skin tone", "waving hand with light skin tone"),
        ("ear with hearing aid: dark skin tone", "ear with hearing aid and dark skin tone"),
        ("man: bald", "bald man"),
        ("woman: dark skin tone, bald", "bald woman with dark skin tone"),
        ("person: red hair", "person with red hair"),
        ("man: light skin tone, red hair", "man with light skin tone and red hair"),
        ("woman: medium skin tone, beard", "woman with medium skin tone and a beard"),
        ("person walking: facing right", "person walking facing right"),
        (
            "man running: dark skin tone, facing right",
            "man running facing right with dark skin tone",
        ),
        ("kiss: woman, man", "kiss of a woman and a man"),
        ("kiss: man, man, light skin tone", "kiss of two men with light skin tone"),
        ("couple with heart: woman, woman", "couple with heart, two women"),
        (
            "couple with heart: woman, man, dark skin tone",
            "couple with heart, a woman and a man with dark skin tone",
        ),
        ("family: man, woman, girl, boy", "family of a man, a woman, a girl and a boy"),
        ("family: adult, adult, child, child", "family of two adults and two children"),
        ("family: adult, child", "family of an adult and a child"),
        ("flag: Japan", "the flag of Japan"),
        ("flag: United States", "the flag of the United States"),
        ("flag: Cook Islands", "the flag of the Cook Islands"),
        ("flag: Bouvet Island", "the flag of Bouvet Island"),
        ("keycap: #", "keycap #"),
        ("red heart", None),
        ("flag in hole", None),
        ("keycap", None),
        ("person: wearing a hat", None),
    ],
)
def test_names_with_details_become_phrases(name: str, phrase: str | None) -> None:
    assert phrase_of(name) == phrase


@pytest.mark.parametrize(
    "noun",
    [
        "a red heart", "an ant", "a unicorn", "an umbrella", "a one-piece swimsuit", "a ewe",
        "an hourglass", "an x-ray", "a t-shirt", "a euro banknote", "an e-mail", "an eye",
        "a bus", "a glass of milk", "an octopus", "a dress", "a face with tears of joy",
        "a nest with eggs", "a person lifting weights", "a cloud with lightning and rain",
        "a bald man", "a waving hand with light skin tone", "a thumbs up", "a ring",
        "a family of two men and a girl", "a kiss of a woman and a man", "a pot of food",
    ],
)  # fmt: skip
def test_singular_nouns_have_their_article(noun: str) -> None:
    assert with_article(noun.partition(" ")[2]) == noun


@pytest.mark.parametrize(
    "words",
    [
        "grapes", "clapping hands", "scissors", "skis", "people hugging", "men wrestling",
        "children crossing", "busts in silhouette", "palms up together", "bread", "cooked rice",
        "meat on bone", "field hockey", "horse racing", "foggy", "plus", "potable water",
        "one o'clock", "two-thirty", "no entry", "no smoking", "input numbers", "locked with key",
        "Japanese castle", "OK hand", "person gesturing NO", "waving hand: light skin tone",
        "the flag of Japan", "keycap 1", "mount fuji", "hourglass done",
    ],
)  # fmt: skip
def test_other_names_have_no_article(words: str) -> None:
    assert with_article(words) is None


def emoji(character: str, name: str, *keywords: str, concept: str = "", tone: str = "") -> Emoji:
    return Emoji(character, character, name, keywords, concept or character, tone)


def test_captions_go_from_the_name_to_single_keywords() -> None:
    pizza = emoji("🍕", "pizza", "cheese", "pizza", "slice")
    assert CaptionWriter([pizza]).captions(pizza) == [
        "pizza",
        "a pizza",
        "cheese, pizza, slice",
        "cheese",
        "slice",
    ]


def test_captions_that_differ_in_case_alone_are_one() -> None:
    zodiac = emoji("♈", "Aries", "aries", "ARIES")
    assert CaptionWriter([zodiac]).captions(zodiac) == ["Aries", "aries, ARIES"]


def test_flags_have_their_phrase_and_not_the_keyword_of_all_flags() -> None:
    japan = emoji("🇯🇵", "flag: Japan", "flag")
    others = [emoji(str(n), f"flag: {n}", "flag") for n in range(MOST_SHARING)]
    captions = CaptionWriter([japan, *others]).captions(japan)
    assert captions == ["flag: Japan", "the flag of Japan"]


def test_a_keyword_is_a_caption_only_where_few_concepts_share_it() -> None:
    few = [emoji(str(n), f"name {n}", "joy", "number") for n in range(MOST_SHARING)]
    assert "joy" in CaptionWriter(few).captions(few[0])

    variants = [emoji(f"{n}+", f"variant {n}", "joy", concept="0") for n in range(9)]
    assert "joy" in CaptionWriter([*few, *variants]).captions(few[0])
    assert "joy" not in CaptionWriter([*few, emoji("x", "x", "joy")]).captions(few[0])


def test_a_keyword_that_names_something_else_is_no_caption() -> None:
    dog, face = emoji("🐕", "dog", "pet"), emoji("🐶", "dog face", "Dog", "pet")
    captions = CaptionWriter([dog, face]).captions(face)
    assert captions == ["dog face", "a dog face", "Dog, pet", "pet"]


def test_a_keyword_stands_for_what_has_it_in_its_name() -> None:
    pizza = emoji("🍕", "pizza", "cheese", "melted cheese", "slice")
    wedge = emoji("🧀", "cheese wedge", "cheese", "dairy")
    captions = CaptionWriter([pizza, wedge])
    assert captions.captions(pizza)[3:] == ["melted cheese", "slice"]
    assert captions.captions(wedge)[3:] == ["cheese", "dairy"]


def test_a_keyword_of_many_stands_for_nothing_though_it_is_in_a_name() -> None:
    hotel = emoji("🏩", "love hotel", "building", "love")
    many = [emoji(str(n), f"thing {n}", "love") for n in range(MOST_SHARING)]
    assert "love" in CaptionWriter([hotel, *many[1:]]).captions(hotel)
    assert "love" not in CaptionWriter([hotel, *many]).captions(hotel)


def test_names_of_countries_are_no_parts_of_names() -> None:
    island = emoji("🏝", "desert island", "desert", "island")
    flags = [emoji(str(n), f"flag: {n} island", "flag") for n in range(9)]
    assert "island" in CaptionWriter([island, *flags]).captions(island)


def test_a_skin_tone_is_in_every_caption() -> None:
    tone = "light skin tone"
    hand = emoji("👋🏻", f"waving hand: {tone}", "hand", tone, "wave", tone=tone)
    captions = CaptionWriter([hand]).captions(hand)
    assert len(captions) == 4 and all(tone in caption for caption in captions)
