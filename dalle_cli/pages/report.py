"""The report of one or several runs: a page in one file, which can be sent to a colleague.

Knows nothing of files: what it shows comes in as facts, pictures as bytes.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dalle_cli.pages import chart as charts
from dalle_cli.pages.chart import Line, Point, chart
from dalle_cli.pages.document import Markup, document, element

STYLE = (
    charts.STYLE
    + """
.charts {
  display: grid; gap: 1rem 2rem; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr));
}
.charts section { min-width: 0 } h3 { font-size: 1rem; margin: 1rem 0 .25rem }
.wide { overflow-x: auto } .small img, .masks img { image-rendering: pixelated }
.pictures { display: flex; flex-wrap: wrap; gap: .75rem } figure { margin: 0 }
.pictures figure { max-width: 9rem } .masks figure { max-width: 14rem }
.pictures img { width: 6rem } .masks img { width: 14rem }
figcaption { font-size: .85rem; color: var(--faint) }
.steps img { max-width: 100% } .steps input { width: 20rem; max-width: 100% }
td.new { font-weight: bold }
@media print { .steps input { display: none } section, figure { break-inside: avoid } }
"""
)
SCRIPT = (
    charts.SCRIPT
    + """
for (const steps of document.querySelectorAll(".steps")) {
  const slider = steps.querySelector("input");
  slider.addEventListener("input", () => {
    steps.querySelectorAll("figure").forEach((figure, i) => (figure.hidden = i !== +slider.value));
  });
}
"""
)
# figures that are drawn together, under a title; any other figure has a chart of its own
CHARTS = {
    "Loss": ("train/loss", "valid/loss"),
    "Nats per text token": ("train/loss_text", "valid/loss_text"),
    "Nats per image token": ("train/loss_image", "valid/nats_per_image_token"),
    "Image tokens that were the likeliest": (
        "train/image_token_accuracy",
        "valid/image_token_accuracy",
    ),
    "PSNR of reconstructions, dB": ("valid/psnr",),
    "Nats per pixel value": ("train/nats_per_value", "valid/nats_per_value"),
    "KL per cell, nats": ("train/kl_per_cell", "valid/kl_per_cell"),
    "Temperature": ("train/temperature",),
    "KL weight": ("train/kl_weight",),
    "Codebook entries": ("valid/codes_used", "valid/codes_dead"),
    "Perplexity of the codebook": ("valid/perplexity", "valid/perplexity_without_blanks"),
    "Retrieval": (
        "valid/text_recall_at_1",
        "valid/text_recall_at_5",
        "valid/image_recall_at_1",
        "valid/image_recall_at_5",
    ),
    "Learning rate": ("train/lr",),
    "Gradient norm": ("train/gradient_norm",),
    "Gradient scales": ("grad_scale/min", "grad_scale/max"),
    "Pictures per second": ("train/images_per_second",),
}
STEP, SECONDS = "step", "train/seconds"
BITS = "/bits_"  # figures that are there in nats


@dataclass(frozen=True)
class Picture:
    """A picture of a page: its bytes in a format that browsers know, and the words under it."""

    content: bytes
    mime: str
    caption: str

    def tag(self) -> Markup:
        """Return the picture as an element that holds it."""
        data = base64.b64encode(self.content).decode()
        return element("img", src=f"data:{self.mime};base64,{data}", alt=self.caption)


@dataclass(frozen=True)
class RunFacts:
    """What a report shows of a run.

    kind      of model: curves of the same kind are drawn over one another
    rows      what it is and what has become of it: labels and texts
    machine   where it runs: labels and texts
    reports   lines of its metrics
    recipe    keys under dotted names, with their values
    changed   keys that differ from the shipped recipe
    previews  by step
    best      generated pictures with the highest scores, best first, and the lowest in `worst`
    masks     of its kinds of attention, and how layers use them in `layers`
    figures   of its newest evaluation, as text by label, with what to know of them in `notes`
    """

    name: str
    kind: str
    rows: Sequence[tuple[str, str]]
    machine: Sequence[tuple[str, str]]
    reports: Sequence[Mapping[str, float]]
    recipe: Mapping[str, object]
    changed: frozenset[str] = frozenset()
    previews: Sequence[Picture] = ()
    best: Sequence[Picture] = ()
    worst: Sequence[Picture] = ()
    masks: Sequence[Picture] = ()
    layers: Sequence[str] = field(default_factory=tuple)
    figures: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def report_page(runs: Sequence[RunFacts]) -> str:
    """Return the page of these runs; curves of the same figure are drawn over one another."""
    kinds = [
        [run for run in runs if run.kind == kind]
        for kind in dict.fromkeys(run.kind for run in runs)
    ]
    is_mixed = len(kinds) > 1
    title = ", ".join(run.name for run in runs)
    body = element(
        "main",
        element("h1", title),
        [_curves(same, f": {same[0].kind}" if is_mixed else "") for same in kinds],
        [_evaluations(same, f": {same[0].kind}" if is_mixed else "") for same in kinds],
        [section for run in runs for section in _run_sections(run, is_alone=len(runs) == 1)],
        [_recipes(same, f": {same[0].kind}" if is_mixed else "") for same in kinds],
    )
    return document(title, body, style=STYLE, script=SCRIPT)


def _curves(runs: Sequence[RunFacts], of_kind: str) -> Markup:
    charts = list(_charts(runs)) or element("p", "No figures have been reported yet.")
    heading = element("h2", f"Curves{of_kind}")
    return element("section", heading, element("div", charts, class_="charts"))


def _evaluations(runs: Sequence[RunFacts], of_kind: str) -> Markup:
    """Return the figures of the runs' evaluations side by side; nothing where there are none."""
    labels = dict.fromkeys(label for run in runs for label in run.figures)
    if not labels:
        return Markup()
    rows = [
        element(
            "tr",
            element("th", label),
            [element("td", run.figures.get(label, "")) for run in runs],
        )
        for label in labels
    ]
    head = element("tr", element("th", ""), [element("th", run.name) for run in runs])
    notes = [
        element("p", note if len(runs) == 1 else f"{run.name}: {note}")
        for run in runs
        for note in run.notes
    ]
    table = element("table", head if len(runs) > 1 else "", rows)
    heading = element("h2", f"Evaluation{of_kind}")
    return element("section", heading, element("div", table, class_="wide"), notes)


def _charts(runs: Sequence[RunFacts]) -> Iterator[Markup]:
    """Yield the known charts, then every other figure alone; what is always 0 is left out."""
    found = dict.fromkeys(name for run in runs for one in run.reports for name in one)
    known = {STEP, SECONDS, *(name for names in CHARTS.values() for name in names)}
    others = [name for name in found if name not in known and BITS not in name]

    for title, names in (*CHARTS.items(), *((name, (name,)) for name in others)):
        lines = [
            Line(name if len(runs) == 1 else f"{run.name}: {name}", _points(run, name))
            for run in runs
            for name in names
        ]
        if any(value for line in lines for _, value in line.points):
            yield chart(title, lines)


def _points(run: RunFacts, name: str) -> list[Point]:
    return [(one[STEP], one[name]) for one in run.reports if name in one]


def _run_sections(run: RunFacts, *, is_alone: bool) -> Iterator[Markup]:
    heading = element("h2", "The run" if is_alone else run.name)
    yield element(
        "section", heading, _table(run.rows), element("h3", "Machine"), _table(run.machine)
    )
    if run.previews:
        yield element("section", element("h3", "Previews"), _slider(run.previews))
    for title, pictures in (("Best by score", run.best), ("Worst by score", run.worst)):
        if pictures:
            yield element("section", element("h3", title), _pictures(pictures, "pictures small"))
    if run.masks:
        order = element("p", "Layers, in order: ", ", ".join(run.layers))
        words = "White where a position of the picture (down) may attend to another (across)."
        yield element(
            "section",
            element("h3", "Attention"),
            order,
            _pictures(run.masks, "pictures masks"),
            element("p", words),
        )


def _table(rows: Sequence[tuple[str, str]]) -> Markup:
    cells = [element("tr", element("th", label), element("td", text)) for label, text in rows]
    return element("div", element("table", cells), class_="wide")


def _slider(previews: Sequence[Picture]) -> Markup:
    last = len(previews) - 1
    figures = [
        element("figure", element("figcaption", one.caption), one.tag(), hidden=i != last)
        for i, one in enumerate(previews)
    ]
    slider = element(
        "input", type="range", min=0, max=last, value=last, aria_label="step of the preview"
    )
    return element("div", slider if last else "", figures, class_="steps")


def _pictures(pictures: Sequence[Picture], kind: str) -> Markup:
    figures = [element("figure", one.tag(), element("figcaption", one.caption)) for one in pictures]
    return element("div", figures, class_=kind)


def _recipes(runs: Sequence[RunFacts], of_kind: str) -> Markup:
    """Return the recipe of a run, or the keys in which the recipes of several differ."""
    keys = sorted({key for run in runs for key in run.recipe})
    title, note = "Recipe", "Bold: differs from the shipped recipe."
    if len(runs) > 1:
        keys = [key for key in keys if len({str(run.recipe.get(key)) for run in runs}) > 1]
        title, note = "Differences between the recipes", ""
    rows = [
        element(
            "tr",
            element("th", key),
            [
                element(
                    "td", str(run.recipe.get(key, "")), class_="new" if key in run.changed else ""
                )
                for run in runs
            ],
        )
        for key in keys
    ]
    head = element("tr", element("th", ""), [element("th", run.name) for run in runs])
    table = element("table", head if len(runs) > 1 else "", rows)
    return element(
        "section",
        element("h2", f"{title}{of_kind}"),
        element("p", note),
        element("div", table, class_="wide"),
    )
