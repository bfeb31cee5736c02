"""The emoji that a font draws and that have a name, with their concepts.

Everything that is annotated but not taken is counted by its reason.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from dalle_cli.data.rendered.emoji_annotations import Annotation
from dalle_cli.data.rendered.emoji_concepts import (
    code_points,
    concept_of,
    is_emoji_part,
    skin_tones_of,
)
from dalle_cli.data.rendered.emoji_font import EmojiFont

PART_OF_OTHERS = "are parts of other emoji"
SEVERAL_TONES = "have several skin tones"


@dataclass(frozen=True)
class Emoji:
    """One picture of a font.

    sequence  its characters, without variation selectors
    spelling  the same as the font wants it
    concept   the sequence that stands for all of its variants
    """

    sequence: str
    spelling: str
    name: str
    keywords: tuple[str, ...]
    concept: str
    skin_tone: str

    @property
    def stem(self) -> str:
        """The name of its files without a suffix, in ASCII: 1f436-dog-face."""
        plain = unicodedata.normalize("NFKD", self.name.replace("'", "")).encode("ascii", "ignore")
        words = re.findall("[a-z0-9]+", plain.decode().lower())
        return "-".join([code_points(self.sequence), *words])


def collect_emoji(
    annotations: Mapping[str, Annotation], font: EmojiFont
) -> tuple[list[Emoji], Counter[str]]:
    """Return all emoji in the order of the annotations, and how many were left out for a reason."""
    collected, left_out = [], Counter[str]()
    concept_of_picture: dict[bytes, str] = {}

    for sequence, (name, keywords) in annotations.items():
        spelling = font.spelling(sequence)
        problem = _problem(sequence) if spelling else font.problem(sequence)
        if problem or spelling is None:
            left_out[problem] += 1
            continue

        # a flag may be that of several places, which must not be on both sides of the split
        picture = font.fingerprint(spelling)
        concept = concept_of_picture.setdefault(picture, concept_of(sequence))
        tone = "".join(skin_tones_of(sequence))
        collected.append(Emoji(sequence, spelling, name, keywords, concept, tone))

    return collected, left_out


def _problem(sequence: str) -> str:
    if is_emoji_part(sequence):
        return PART_OF_OTHERS
    return SEVERAL_TONES if len(skin_tones_of(sequence)) > 1 else ""
