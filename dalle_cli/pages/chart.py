"""Line charts as SVG: readable without a script, and with one read off by pointer or arrow keys."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dalle_cli.pages.document import Markup, element

WIDTH, HEIGHT = 480, 200  # units of the drawing, which is scaled to its place
LEFT, RIGHT, TOP, BOTTOM = 56, 8, 8, 24  # margins
MAX_POINTS = 400  # of a line: means of neighbours where there are more
MAX_IN_ALL = 2000  # of all lines together, as long as each has a hundred
N_TICKS = 4
N_COLOURS = 8
DASHES = ("", "dashed", "dotted", "mixed")

STYLE = """
.chart { width: 100%; height: auto; touch-action: pan-y } .chart:focus { outline: 1px dotted }
.chart text { font: 11px system-ui, sans-serif; fill: var(--faint) }
.chart path { stroke: var(--line); fill: none } .chart .cross { stroke: var(--faint) }
.chart polyline { fill: none; stroke-width: 1.5; stroke-linejoin: round; stroke-linecap: round }
.chart .point { stroke-width: 5 }
.dashed { stroke-dasharray: 5 3 } .dotted { stroke-dasharray: 1 4 }
.mixed { stroke-dasharray: 6 3 1 3 }
.legend { margin: 0; padding: 0; list-style: none; font-size: .85rem }
.legend li { display: inline-block; margin-right: 1rem; font-variant-numeric: tabular-nums }
.legend svg { width: 1.5em; height: .6em; stroke-width: 3 }
output {
  display: block; height: 1.5em; font-size: .85rem; color: var(--faint);
  overflow: hidden; white-space: nowrap; text-overflow: ellipsis;
}
""" + "".join(
    f".c{i} {{ stroke: {colour} }}\n"
    for i, colour in enumerate(
        ["#3b7dd8", "#d1662a", "#2f9a5f", "#a657c7", "#c23b59", "#8b8a1d", "#1b98a6", "#8a6552"]
    )
)
SCRIPT = """
for (const chart of document.querySelectorAll(".chart")) {
  const { lines, names, view } = JSON.parse(chart.dataset.chart);
  const [low, high, left, right] = view;
  const steps = [...new Set(lines.flat().map((point) => point[0]))].sort((a, b) => a - b);
  const cross = chart.querySelector(".cross");
  const shown = chart.parentElement.querySelector("output");
  const legend = [...chart.parentElement.querySelectorAll(".value")];
  const last = legend.map((value) => value.textContent);
  let at = steps.length - 1;
  const nearest = (line, step) =>
    line.reduce((a, b) => (Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a));
  // a run that ends early has no value later
  const isOver = (line, step) => step < line[0][0] || step > line[line.length - 1][0];
  const show = () => {
    const step = steps[at];
    const x = left + ((step - low) / (high - low || 1)) * (right - left);
    cross.setAttribute("d", `M${x} 8V176`);
    const values = lines.map((line) => (isOver(line, step) ? "–" : nearest(line, step)[1]));
    values.forEach((value, i) => (legend[i].textContent = value));
    const read = values.map((value, i) => `${names[i]} ${value}`);
    shown.textContent = `step ${step.toLocaleString("en")}: ${read.join(" · ")}`;
  };
  const leave = () => {
    cross.removeAttribute("d");
    last.forEach((value, i) => (legend[i].textContent = value));
    shown.textContent = "";
  };
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * 480;
    const step = low + ((x - left) / (right - left)) * (high - low);
    at = steps.reduce((a, b, i) => (Math.abs(b - step) < Math.abs(steps[a] - step) ? i : a), 0);
    show();
  });
  chart.addEventListener("pointerleave", leave);
  chart.addEventListener("blur", leave);
  chart.addEventListener("keydown", (event) => {
    const end = steps.length - 1;
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: end }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    at = Math.min(Math.max(next, 0), end);
    show();
  });
}
"""

Point = tuple[float, float]  # step and value


@dataclass(frozen=True)
class Line:
    """A line of a chart: its name, and its points by rising step.

    colour  by number: lines of the same one are told apart by `dash`
    dash    by number: solid, dashed, dotted, mixed
    """

    name: str
    points: Sequence[Point]
    colour: int = 0
    dash: int = 0

    @property
    def classes(self) -> str:
        """How it is drawn."""
        return f"c{self.colour % N_COLOURS} {DASHES[self.dash % len(DASHES)]}".rstrip()


def chart(title: str, lines: Sequence[Line]) -> Markup:
    """Draw lines over steps, with axes, a legend, and a place for what is read off.

    Lines without points are left out; there must be one with points.
    """
    drawn = [line for line in lines if line.points]
    at_most = max(MAX_IN_ALL // len(drawn), 100)
    drawn = [replace(line, points=thinned(line.points, min(at_most, MAX_POINTS))) for line in drawn]
    steps = [step for line in drawn for step, _ in line.points]
    values = [value for line in drawn for _, value in line.points]
    low, high = min(steps), max(steps)
    ticks = nice_ticks(min(values), max(values))
    bottom, top = min(ticks[0], *values), max(ticks[-1], *values)

    def place(step: float, value: float) -> tuple[float, float]:
        x = LEFT + (step - low) / ((high - low) or 1) * (WIDTH - LEFT - RIGHT)
        y = TOP + (top - value) / ((top - bottom) or 1) * (HEIGHT - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    marks = []
    for tick in ticks:
        _, y = place(low, tick)
        marks += [
            element("path", d=f"M{LEFT} {y}H{WIDTH - RIGHT}"),
            element("text", number_text(tick), x=LEFT - 6, y=y + 4, text_anchor="end"),
        ]
    for step, anchor in ((low, "start"), (high, "end")):
        x, _ = place(step, bottom)
        label = f"step {step:,.0f}" if step == low else f"{step:,.0f}"
        marks.append(element("text", label, x=x, y=HEIGHT - 6, text_anchor=anchor))

    polylines = []
    for line in drawn:
        is_point = len(line.points) == 1
        places = [place(*point) for point in line.points] * (1 + is_point)  # one is not drawn
        polylines.append(
            element(
                "polyline",
                points=" ".join(f"{x},{y}" for x, y in places),
                class_=f"{line.classes} point" if is_point else line.classes,
            )
        )
    data = {
        "names": [line.name for line in drawn],
        "lines": [[[step, _rounded(value)] for step, value in line.points] for line in drawn],
        "view": [low, high, LEFT, WIDTH - RIGHT],
    }
    svg = element(
        "svg",
        marks,
        polylines,
        element("path", class_="cross"),
        class_="chart",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        tabindex=0,
        aria_label=f"{title}; arrow keys read values",
        data_chart=json.dumps(data, separators=(",", ":")),
    )
    legend = element("ul", [_legend(line) for line in drawn], class_="legend")
    return element("section", element("h3", title), svg, element("output"), legend)


def nice_ticks(low: float, high: float) -> list[float]:
    """Return round numbers, at least two, from at most `low` to at least `high`."""
    span = (high - low) or abs(high) or 1.0
    unit = 10 ** math.floor(math.log10(span / N_TICKS))
    step = next(unit * m for m in (1, 2, 5, 10, 20) if span / (unit * m) <= N_TICKS)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def thinned(points: Sequence[Point], at_most: int = MAX_POINTS) -> list[Point]:
    """Return the points, or the means of equally many neighbours where there are too many."""
    size = math.ceil(len(points) / at_most)
    if size <= 1:
        return list(points)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def number_text(value: float) -> str:
    """Write a number in at most about seven characters."""
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _legend(line: Line) -> Markup:
    swatch = element("svg", element("path", d="M0 5H30", class_=line.classes), viewBox="0 0 30 10")
    value = element("span", number_text(line.points[-1][1]), class_="value")
    return element("li", swatch, " ", line.name, ": ", value)


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
