"""Names and keywords of emoji, from the annotations of Unicode's CLDR.

CLDR writes sequences without the variation selector U+FE0F, and annotates punctuation and signs as
well. Which of them are emoji depends on the font.
"""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dalle_cli.errors import DalleError, printable

SHORT_NAME = "tts"  # CLDR's type of a short name, after "text to speech"
_TYPEWRITTEN = str.maketrans({"’": "'", "‘": "'", "“": "", "”": "", "–": "-"})
_LATIN = re.compile("[A-Za-z0-9]")


class Annotation(NamedTuple):
    """The short name of a character or sequence, and its keywords in CLDR's order."""

    name: str
    keywords: tuple[str, ...]


def load_annotations(files: Iterable[Path]) -> dict[str, Annotation]:
    """Load everything that has a short name, in the order of the files.

    Texts become what people type: apostrophes and dashes of a keyboard, no quotation marks, no
    keywords in other scripts. Raises DalleError for a file that is not CLDR's.
    """
    names: dict[str, str] = {}
    keywords: dict[str, tuple[str, ...]] = {}
    for file in files:
        for element in _parse(file).iter("annotation"):
            sequence, text = element.get("cp", ""), (element.text or "").translate(_TYPEWRITTEN)
            if element.get("type") == SHORT_NAME:
                names.setdefault(sequence, text.strip())
            else:
                keywords.setdefault(sequence, _split(text))

    if not names:
        raise DalleError("the annotations name nothing", "give the folder `common` of CLDR")
    return {
        sequence: Annotation(name, keywords.get(sequence, ()))
        for sequence, name in names.items()
        if sequence and name
    }


def _parse(file: Path) -> ElementTree.Element:
    """Parse a file without the external entities that it may name."""
    try:
        return ElementTree.parse(file).getroot()
    except (OSError, ElementTree.ParseError) as error:
        message = f"cannot read the annotations {printable(str(file))}: {error}"
        raise DalleError(message, "give the folder `common` of CLDR") from error


def _split(text: str) -> tuple[str, ...]:
    """Split keywords, without those in other scripts and those that are a name with details."""
    keywords = (keyword.strip() for keyword in text.split("|"))
    return tuple(word for word in keywords if _LATIN.search(word) and ":" not in word)
