"""Which emoji show the same thing, and which things are held out.

A concept is a sequence of characters without skin tone, gender, hair and direction: all variants of
one thing have the same. Knows nothing of fonts and names.
"""

import hashlib
import re

from dalle_cli.data.rendered.emoji_font import JOINER

SKIN_TONES = {
    "🏻": "light skin tone",
    "🏼": "medium-light skin tone",
    "🏽": "medium skin tone",
    "🏾": "medium-dark skin tone",
    "🏿": "dark skin tone",
}
HAIR = "🦰🦱🦲🦳"
_SIGNS = "#*0123456789"  # parts of keycaps
_DROPPED = re.compile(f"[{''.join(SKIN_TONES)}]|{JOINER}[♀♂➡{HAIR}]")
# a character for all of its genders and ages of adults, or for what is its mirror image
_COUNTERPARTS = str.maketrans(
    "👨👩👱🧔👦👧👴👵🤴👸💃🤰🫃👈🤛🫲🫸⬅◀⏪⏮↩↖↙🔍🌜🌗🌘🌖",
    "🧑🧑🧑🧑🧒🧒🧓🧓🫅🫅🕺🫄🫄👉🤜🫱🫷➡▶⏩⏭↪↗↘🔎🌛🌓🌒🌔",
)
_COUPLE, _FAMILY = JOINER.join("🧑🤝🧑"), re.compile(f"[🧑🧒](?:{JOINER}[🧑🧒])+")
_COUNTERPARTS_OF_SEQUENCES = {
    **dict.fromkeys("👫👬👭", _COUPLE),
    **dict.fromkeys("🎅🤶", JOINER.join("🧑🎄")),
    JOINER.join("🧑❤🧑"): "💑",
    JOINER.join("🧑❤💋🧑"): "💏",
}


def concept_of(sequence: str) -> str:
    """Return the sequence that stands for all variants of an emoji."""
    neutral = _DROPPED.sub("", sequence).translate(_COUNTERPARTS)
    if _FAMILY.fullmatch(neutral):
        return "👪"
    return _COUNTERPARTS_OF_SEQUENCES.get(neutral, neutral)


def skin_tones_of(sequence: str) -> list[str]:
    """Return the different skin tones of an emoji, in the order in which they appear."""
    return list(dict.fromkeys(SKIN_TONES[part] for part in sequence if part in SKIN_TONES))


def is_emoji_part(sequence: str) -> bool:
    """Return whether a character is no emoji by itself: a skin tone, hair, or a keycap's sign."""
    return len(sequence) == 1 and sequence in {*SKIN_TONES, *HAIR, *_SIGNS}


def is_held_out(concept: str, share: float, *, seed: int) -> bool:
    """Return whether a concept belongs to the share that is kept out of training."""
    digest = hashlib.sha256(f"{seed} {concept}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def code_points(sequence: str) -> str:
    """Write a sequence in ASCII, such as 1f44b-1f3fb."""
    return "-".join(f"{ord(character):04x}" for character in sequence)
