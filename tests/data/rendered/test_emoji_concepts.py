"""Concepts of emoji: variants of one thing are one, other things are not; and what is held out."""

import pytest

from dalle_cli.data.rendered.emoji_concepts import (
    code_points,
    concept_of,
    is_emoji_part,
    is_held_out,
    skin_tones_of,
)

TOGETHER = {
    "waving hand": "👋 👋🏻 👋🏿",
    "person, with all hair": "🧑 👨 👩🏽 👱 👱🏾‍♀ 👨‍🦰 👩🏻‍🦲 🧔 🧔🏿‍♂ 🧔‍♀",
    "child": "🧒 👦🏻 👧",
    "older person": "🧓 👴 👵🏿",
    "police officer": "👮 👮‍♂ 👮🏼‍♀",
    "health worker": "🧑‍⚕ 👨‍⚕ 👩🏿‍⚕",
    "royalty": "🫅 🤴 👸🏽",
    "Santa Claus": "🎅 🤶🏻 🧑‍🎄",
    "dancing": "🕺 💃🏿",
    "pregnant": "🤰 🫃🏻 🫄",
    "holding hands": "👫 👬🏻 👭 🧑‍🤝‍🧑 👩🏻‍🤝‍👩🏻",
    "kiss": "💏 💏🏻 👩‍❤‍💋‍👨 👨🏻‍❤‍💋‍👨🏻",
    "couple": "💑 👩‍❤‍👨 👩🏽‍❤‍👩🏽",
    "family": "👪 👨‍👩‍👦 👩‍👧‍👦 🧑‍🧑‍🧒‍🧒",
    "walking": "🚶 🚶🏻‍♀ 🚶‍➡ 🚶🏿‍♂‍➡",
    "pointing": "👉 👈 👈🏻",
    "sideways": "➡ ⬅",
    "lens": "🔎 🔍",
}
APART = "🐶 🐕 🐱 👩‍🍼 🤱 👼 🧙 👆 ⬆ ⬇ 😀 ❤ ❤‍🔥 🏳‍🌈 🏳‍⚧ 🏴‍☠ 🇯🇵 🇨🇦 1⃣ 2⃣"


@pytest.mark.parametrize("variants", TOGETHER.values(), ids=TOGETHER)
def test_variants_of_one_thing_are_one_concept(variants: str) -> None:
    assert len({concept_of(variant) for variant in variants.split()}) == 1


def test_different_things_are_different_concepts() -> None:
    others = [variants.split()[0] for variants in TOGETHER.values()] + APART.split()
    assert len({concept_of(other) for other in others}) == len(others)


def test_a_concept_is_its_own_concept() -> None:
    everything = [v for variants in TOGETHER.values() for v in variants.split()] + APART.split()
    assert all(concept_of(concept_of(one)) == concept_of(one) for one in everything)


@pytest.mark.parametrize(
    ("sequence", "tones"),
    [
        ("👋", []),
        ("👋🏻", ["light skin tone"]),
        ("👩🏽‍❤‍👩🏽", ["medium skin tone"]),
        ("👩🏿‍❤‍👩🏼", ["dark skin tone", "medium-light skin tone"]),
    ],
)
def test_skin_tones_are_named_once(sequence: str, tones: list[str]) -> None:
    assert skin_tones_of(sequence) == tones


def test_parts_of_emoji_are_no_emoji() -> None:
    assert all(map(is_emoji_part, "🏻🏿🦰🦲#*07"))
    assert not any(map(is_emoji_part, ["👋", "👋🏻", "1⃣", "❤"]))


def test_share_of_concepts_is_held_out_and_another_seed_holds_out_others() -> None:
    concepts = [chr(code) for code in range(0x1F300, 0x1F300 + 1000)]
    first, second = (
        {concept for concept in concepts if is_held_out(concept, 0.1, seed=seed)} for seed in (0, 1)
    )
    assert 60 < len(first) < 140 and 60 < len(second) < 140 and len(first & second) < 40
    more = {concept for concept in concepts if is_held_out(concept, 0.3, seed=0)}
    assert first < more
    assert not any(is_held_out(concept, 0.0, seed=0) for concept in concepts)


def test_code_points_are_those_of_unicode() -> None:
    assert code_points("1⃣") == "0031-20e3" and code_points("👋🏻") == "1f44b-1f3fb"
