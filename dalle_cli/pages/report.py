"""The report of one or several runs: a page in one file, which can be sent to a colleague.

Knows nothing of files: what it shows comes in as facts, pictures as bytes.
"""

import base64
import json
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
nav a { margin-right: 1rem } a { color: inherit } .was { font-weight: normal; color: var(--faint) }
.wide { overflow-x: auto } .masks img, .layers img { image-rendering: pixelated }
.pictures, .layers { display: flex; flex-wrap: wrap; gap: .75rem } figure { margin: 0 }
.pictures figure { max-width: 9rem } .masks figure { max-width: 16rem }
.pictures img { width: 6rem } .masks img { width: 16rem } .layers img { width: 3.5rem }
.masks img, .layers img { display: block; border: 1px solid var(--line) }
figcaption { font-size: .85rem; color: var(--faint) }
.steps img { max-width: 100% } .steps input { width: 20rem; max-width: 100% }
.grid th, .grid td { border-bottom: 1px solid var(--line) } td.new { font-weight: bold }
@media print {
  nav, output, .steps input { display: none } .charts section, figure, tr { break-inside: avoid }
  h2, h3 { break-after: avoid }
}
"""
)
SCRIPT = (
    charts.SCRIPT
    + """
for (const steps of document.querySelectorAll(".steps")) {
  const slider = steps.querySelector("input");
  const figures = [...steps.querySelectorAll("figure")];
  const name = (figure) => figure.querySelector("figcaption").textContent;
  slider?.addEventListener("input", () => {
    figures.forEach((figure, i) => (figure.hidden = i !== +slider.value));
    slider.setAttribute("aria-valuetext", name(figures[slider.value]));
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
    "Loss scale": ("train/loss_scale",),
    "Updates that were skipped, share": ("train/skipped",),
    "Captions in the batch that were recognised, share": ("train/batch_accuracy",),
    "Logit scale": ("train/logit_scale",),
    "Gain of relaxed over hard tokens, dB": ("valid/relaxed_gap_db",),
    "Captions that were cut, share": ("train/captions_cut",),
    "Pictures per second": ("train/images_per_second",),
    "Tokens per second": ("train/tokens_per_second",),
    "TFLOP per second": ("train/tflops_per_second",),
    "Share of the device's peak rate": ("train/mfu",),
    "Peak memory, GiB": ("train/peak_memory_gib",),
}
Section = tuple[str, list[Markup]]  # a heading, and what is below it

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
    shipped   values of the shipped recipe, of keys that differ from it
    previews  by step
    best      generated pictures with the best scores, best first, and the worst in `worst`
    masks     of its kinds of attention
    layers    what a position of the picture attends to, layer by layer
    figures   of its newest evaluation, as text by label, with what to know of them in `notes`
    """

    name: str
    kind: str
    rows: Sequence[tuple[str, str]]
    machine: Sequence[tuple[str, str]]
    reports: Sequence[Mapping[str, float]]
    recipe: Mapping[str, object]
    shipped: Mapping[str, object] = field(default_factory=dict)
    previews: Sequence[Picture] = ()
    best: Sequence[Picture] = ()
    worst: Sequence[Picture] = ()
    masks: Sequence[Picture] = ()
    layers: Sequence[Picture] = ()
    figures: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def report_page(runs: Sequence[RunFacts]) -> str:
    """Return the page of these runs; curves of the same figure are drawn over one another."""
    kinds = [
        [run for run in runs if run.kind == kind]
        for kind in dict.fromkeys(run.kind for run in runs)
    ]
    of_kinds = [(same, f": {same[0].kind}" if len(kinds) > 1 else "") for same in kinds]
    sections = [
        *(_curves(same, of_kind) for same, of_kind in of_kinds),
        *(_evaluations(same, of_kind) for same, of_kind in of_kinds if _figures(same)),
        *(_run(run, is_alone=len(runs) == 1) for run in runs),
        *(_recipes(same, of_kind) for same, of_kind in of_kinds),
    ]
    links = [element("a", title, href=f"#{i}") for i, (title, _) in enumerate(sections)]
    title = ", ".join(run.name for run in runs)
    body = element(
        "main",
        element("h1", title),
        element("nav", links, aria_label="parts of this page"),
        [
            element("section", element("h2", name), contents, id=i)
            for i, (name, contents) in enumerate(sections)
        ],
    )
    return document(title, body, style=STYLE, script=SCRIPT)


def _curves(runs: Sequence[RunFacts], of_kind: str) -> Section:
    charts = list(_charts(runs)) or element("p", "No figures have been reported yet.")
    return f"Curves{of_kind}", [element("div", charts, class_="charts")]


def _figures(runs: Sequence[RunFacts]) -> list[str]:
    """Return the labels of all figures of the runs' evaluations."""
    return list(dict.fromkeys(label for run in runs for label in run.figures))


def _evaluations(runs: Sequence[RunFacts], of_kind: str) -> Section:
    """Return the figures of the runs' evaluations side by side."""
    rows = [
        element(
            "tr",
            element("th", label),
            [element("td", run.figures.get(label, "")) for run in runs],
        )
        for label in _figures(runs)
    ]
    notes = [
        element("p", note if len(runs) == 1 else f"{run.name}: {note}")
        for run in runs
        for note in run.notes
    ]
    table = element("table", _head(runs), rows, class_="grid")
    return f"Evaluation{of_kind}", [element("div", table, class_="wide"), *notes]


def _head(runs: Sequence[RunFacts]) -> Markup:
    """Return the names of runs over their columns; one needs no name."""
    names = [element("th", run.name) for run in runs]
    return element("tr", element("th", ""), names) if len(runs) > 1 else Markup()


def _charts(runs: Sequence[RunFacts]) -> Iterator[Markup]:
    """Yield the known charts, then every other figure alone; what is always 0 is left out."""
    found = dict.fromkeys(name for run in runs for one in run.reports for name in one)
    known = {STEP, SECONDS, *(name for names in CHARTS.values() for name in names)}
    others = [name for name in found if name not in known and BITS not in name]

    for title, names in (*CHARTS.items(), *((name, (name,)) for name in others)):
        if len(runs) == 1:
            lines = [Line(name, _points(runs[0], name), i) for i, name in enumerate(names)]
        else:  # a colour for each run
            lines = [
                Line(f"{run.name}: {name}", _points(run, name), i, dash)
                for i, run in enumerate(runs)
                for dash, name in enumerate(names)
            ]
        if any(value for line in lines for _, value in line.points):
            yield chart(title, lines)


def _points(run: RunFacts, name: str) -> list[Point]:
    return [(one[STEP], one[name]) for one in run.reports if name in one]


def _run(run: RunFacts, *, is_alone: bool) -> Section:
    return "The run" if is_alone else run.name, list(_run_parts(run))


def _run_parts(run: RunFacts) -> Iterator[Markup]:
    yield _table(run.rows)
    if run.machine:
        yield _part("Machine", _table(run.machine))
    if run.previews:
        yield _part("Previews", _slider(run.previews))
    if run.best:
        yield _part("Best by score", _pictures(run.best, "pictures"))
    if run.worst:
        yield _part("Worst by score", _pictures(run.worst, "pictures"))
    if run.layers:
        words = "What the position in the middle attends to, in each layer from the first on."
        layers = element("p", words), _pictures(run.layers, "layers")
        yield _part("Attention of the layers", *layers)
    if run.masks:
        words = "White where a position of the picture (down) may attend to another (across)."
        yield _part("Attention masks", element("p", words), _pictures(run.masks, "pictures masks"))


def _part(title: str, *contents: Markup) -> Markup:
    return element("section", element("h3", title), contents)


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


def _recipes(runs: Sequence[RunFacts], of_kind: str) -> Section:
    """Return the recipe of a run, or the keys in which the recipes of several differ."""
    keys = sorted({key for run in runs for key in run.recipe})
    title = "Recipe"
    if len(runs) > 1:
        keys = [key for key in keys if len({str(run.recipe.get(key)) for run in runs}) > 1]
        title = "Differences between the recipes"
    rows = [
        element("tr", element("th", key), [_recipe_cell(run, key) for run in runs]) for key in keys
    ]
    table = element("div", element("table", _head(runs), rows, class_="grid"), class_="wide")
    if not rows:
        return f"{title}{of_kind}", [element("p", "There are none.")]
    note = "Bold: differs from the shipped recipe, whose value is beside it."
    is_changed = any(key in run.shipped for run in runs for key in keys)
    return f"{title}{of_kind}", [element("p", note) if is_changed else Markup(), table]


def _recipe_cell(run: RunFacts, key: str) -> Markup:
    value = _value(run.recipe[key]) if key in run.recipe else ""
    if key not in run.shipped:
        return element("td", value)
    was = element("span", f" ({_value(run.shipped[key])})", class_="was")
    return element("td", value, was, class_="new")


def _value(value: object) -> str:
    """Write a value of a recipe as its file has it; one that is absent has no word there."""
    return value if isinstance(value, str) else "absent" if value is None else json.dumps(value)
