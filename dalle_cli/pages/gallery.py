"""The gallery of a generation job: every picture, and the command that generates it again."""

import itertools
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dalle_cli.pages.document import Markup, document, element

STYLE = """
.pictures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)) }
figure { margin: 0 } img { display: block; width: 100%; border: 1px solid var(--line) }
.small img { image-rendering: pixelated }
figcaption, details { font-size: .85rem; color: var(--faint) }
summary { cursor: pointer }
@media print { details { display: none } figure { break-inside: avoid } }
"""
SMALL = 144  # pixels a side, below which browsers would blur what they enlarge
SHOWN = (
    "seed",
    "temperature",
    "top_k",
    "top_p",
    "guidance",
    "steps",
    "sampler",
    "prior_steps",
    "prior_guidance",
    "ranked_by",
    "checkpoint",
    "precision",
)

Record = Mapping[str, Any]


def gallery(
    records: Sequence[Record], *, side: int, command: Callable[[Record], Sequence[str]]
) -> str:
    """Return the page of a job's pictures, which lies beside them.

    records  of a manifest, the pictures of a caption one after another
    side     of a picture, pixels
    command  how to generate a record's picture again: the words of a command line
    """
    groups = [
        (caption, list(group))
        for caption, group in itertools.groupby(records, key=lambda record: record["caption"])
    ]
    title = f"{_count(len(records), 'picture')} of {_count(len(groups), 'caption')}"
    settings = [
        element("tr", element("th", name.replace("_", " ")), element("td", str(records[0][name])))
        for name in SHOWN
        if records[0].get(name) is not None
    ]
    sections = [
        element("section", element("h2", caption), _pictures(group, command))
        for caption, group in groups
    ]
    main = element(
        "main",
        element("h1", title),
        element("table", settings),
        sections,
        class_="small" if side < SMALL else "large",
    )
    return document(title, main, style=STYLE)


def _pictures(group: list[Record], command: Callable[[Record], Sequence[str]]) -> Markup:
    figures = []
    for record in group:
        facts = [f"number {record['number']}"]
        if record.get("score") is not None:
            facts = [f"{record['rank']}. score {_rounded(record['score'])}", *facts]
        picture = element(
            "img", src=record["file"], alt=record["caption"], loading="lazy", decoding="async"
        )
        again = element("code", shlex.join(command(record)))
        figures.append(
            element(
                "figure",
                element("a", picture, href=record["file"]),
                element("figcaption", " · ".join(facts)),
                element("details", element("summary", "generate it again"), again),
            )
        )
    return element("div", figures, class_="pictures")


def _count(n: int, thing: str) -> str:
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"


def _rounded(score: float) -> str:
    return f"{score:.3f}" if math.isfinite(score) and abs(score) < 100 else f"{score:.1f}"
