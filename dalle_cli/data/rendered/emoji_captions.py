"""Captions of emoji: their names as people type them, and their keywords.

Knows English, but no pictures: everything follows from the names and keywords of CLDR.
"""

import re
from collections import Counter
from collections.abc import Iterable

from dalle_cli.data.rendered.emoji_collection import Emoji

MOST_SHARING = 8  # concepts that may share a keyword for it to be a caption by itself

_PEOPLE = {  # and how two of them are called
    "man": "men",
    "woman": "women",
    "person": "people",
    "adult": "adults",
    "boy": "boys",
    "girl": "girls",
    "child": "children",
}
_COMPANY = {"family": " of ", "kiss": " of ", "couple with heart": ", "}
_LANDS_WITH_ARTICLE = re.compile(
    r"(?:United|European|Isle|U\.S\.) .*"
    r"|(?!South Georgia).*(?:Islands|Republic|Territory|Territories)"
    r"|.*(?:Bahamas|Comoros|Gambia|Maldives|Netherlands|Philippines)"
)

_VOWEL = re.compile(r"(?!uni|one\b|once|eu|ewe|use|u-)[aeiou]|hour|heir|honest|[fhlmnrsx]-")
_AFTER_HEAD = re.compile(r" (?:with|without|of|in|on|at|over|behind|under|from|and|for|\w+ing)\b.*")
_PLURAL = re.compile(r".*[^us]s|.*\b(?:people|men|women|children)")
_NO_ARTICLE = re.compile(
    r"(?:no|input|left luggage|mx|mount|palms|milky|busts?|horse racing|flower playing)\b.*"
    r"|.*(?:-thirty|o'clock| done| volume| together| off)"
)
# heads that are not counted, or that are no nouns
_UNCOUNTED = re.compile(
    "away|bacon|badminton|bald|bowling|bread|breast-feeding|broccoli|butter|camping|construction|"
    "control|cooking|copyright|coral|divide|dizzy|dna|fog|foggy|food|garlic|hockey|ice|infinity|"
    "information|kaaba|lacrosse|locked|luggage|mate|meat|minus|multiply|oden|om|plus|polish|pong|"
    "popcorn|prohibited|radioactive|rail|registered|rice|rolling|sake|salt|soap|spaghetti|"
    "star-struck|sushi|tennis|thread|unlocked|voltage|water|wireless|wood|yarn"
)


def phrase_of(name: str) -> str | None:
    """Return a name that has details after a colon as a phrase, None for other names.

    "man: light skin tone, bald" becomes "bald man with light skin tone".
    """
    head, _, rest = name.partition(": ")
    if not rest:
        return None
    if head == "flag":
        return f"the flag of {'the ' * bool(_LANDS_WITH_ARTICLE.fullmatch(rest))}{rest}"
    if head == "keycap":
        return f"keycap {rest}"
    return _described(head, rest.split(", "))


def _described(head: str, details: list[str]) -> str | None:
    """Return a noun with its details around it, None if there is one of an unknown kind."""
    people = [detail for detail in details if detail in _PEOPLE]
    directions = [detail for detail in details if detail.startswith("facing ")]
    traits = [detail for detail in details if detail.endswith((" skin tone", " hair", "beard"))]
    is_bald = "bald" in details
    if len(people) + len(directions) + len(traits) + is_bald < len(details):
        return None

    phrase = " ".join(["bald " * is_bald + head + _company(head, people), *directions])
    if not traits:
        return phrase
    preposition = "and" if " with " in phrase.rpartition(", ")[2] else "with"
    return f"{phrase} {preposition} {_enumerate(traits).replace('beard', 'a beard')}"


def _company(head: str, people: list[str]) -> str:
    """Return who are together, such as " of a man, a woman and two girls"."""
    if not people:
        return ""
    counts = Counter(people)
    groups = [f"two {_PEOPLE[one]}" if n == 2 else _one(one) for one, n in counts.items()]
    return _COMPANY.get(head, " of ") + _enumerate(groups)


def _enumerate(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def with_article(words: str) -> str | None:
    """Return a lower-case singular noun with its article, None for what has none."""
    head = _AFTER_HEAD.sub("", words)
    has_article = (
        words.islower()
        and ":" not in words
        and not words.startswith(("the ", "keycap "))
        and not _UNCOUNTED.fullmatch(head.rpartition(" ")[2])
        and not _PLURAL.fullmatch(head)
        and not _NO_ARTICLE.fullmatch(words)
    )
    return _one(words) if has_article else None


def _one(noun: str) -> str:
    return f"{'an' if _VOWEL.match(noun) else 'a'} {noun}"


class CaptionWriter:
    """Writes the captions of each emoji, given all of them."""

    def __init__(self, everything: Iterable[Emoji]) -> None:
        """Find the concepts that a word stands for, in names, parts of names and keywords."""
        self._by_name: dict[str, set[str]] = {}
        self._by_part: dict[str, set[str]] = {}
        self._by_keyword: dict[str, set[str]] = {}
        for emoji in everything:
            name = emoji.name.casefold()
            parts = _parts_of(name.partition(":")[0])
            keywords = [keyword.casefold() for keyword in emoji.keywords]
            tables = ((self._by_name, [name]), (self._by_part, parts), (self._by_keyword, keywords))
            for table, words in tables:
                for word in words:
                    table.setdefault(word, set()).add(emoji.concept)

    def captions(self, emoji: Emoji) -> list[str]:
        """Return the captions of an emoji, no two alike in lower case.

        These are its name, the same as a phrase and with an article, all keywords together, and
        each keyword that says enough by itself. A skin tone is more than such a keyword says.
        """
        phrase = phrase_of(emoji.name)
        candidates = [emoji.name, phrase, with_article(phrase or emoji.name)]
        if len(emoji.keywords) > 1:
            candidates.append(", ".join(emoji.keywords))
        if not emoji.skin_tone:
            candidates += [word for word in emoji.keywords if self._is_telling(word, emoji.concept)]

        captions: dict[str, str] = {}
        for caption in filter(None, candidates):
            captions.setdefault(caption.casefold(), caption)
        return list(captions.values())

    def _is_telling(self, keyword: str, concept: str) -> bool:
        """Return whether a keyword that few concepts share stands for this one.

        It stands for those that have it as their name, else in their name, else as a keyword.
        """
        word = keyword.casefold()
        sharing = self._by_keyword[word]
        meant = self._by_name.get(word) or self._by_part.get(word) or sharing
        return concept in meant and len(sharing) <= MOST_SHARING


def _parts_of(name: str) -> list[str]:
    """Return all sequences of neighbouring words of a name."""
    words = name.split()
    n_words = len(words)
    return [
        " ".join(words[start:end])
        for start in range(n_words)
        for end in range(start + 1, n_words + 1)
    ]
