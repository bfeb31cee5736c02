"""Line charts as SVG: readable without a script, and with one read off by pointer or arrow keys."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from dalle_cli.pages.document import Markup, element

WIDTH, HEIGHT = 480, 200  # units of the drawing, which is scaled to its place
LEFT, RIGHT, TOP, BOTTOM = 56, 8, 8, 24  # margins
MAX_POINTS = 400  # of a line: means of neighbours where there are more
N_TICKS = 4
N_COLOURS = 8

STYLE = """
.chart { width: 100%; height: auto; touch-action: pan-y } .chart:focus { outline: 1px dotted }
.chart text { font: 11px system-ui, sans-serif; fill: var(--faint) }
.chart path { stroke: var(--line); fill: none } .chart .cross { stroke: var(--faint) }
.chart polyline { fill: none; stroke-width: 1.5; stroke-linejoin: round }
.legend { margin: 0; padding: 0; list-style: none; font-size: .85rem }
.legend li { display: inline-block; margin-right: 1rem }
.legend svg { width: 1em; height: .6em; stroke-width: 4 }
output { display: block; min-height: 1.5em; font-size: .85rem; color: var(--faint) }
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
  let at = steps.length - 1;
  const nearest = (line, step) =>
    line.reduce((a, b) => (Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a));
  const show = () => {
    const step = steps[at];
    const x = left + ((step - low) / (high - low || 1)) * (right - left);
    cross.setAttribute("d", `M${x} 8V176`);
    const values = lines.map((line, i) => `${names[i]} ${nearest(line, step)[1]}`);
    shown.textContent = `step ${step.toLocaleString("en")}: ${values.join(" · ")}`;
  };
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * 480;
    const step = low + ((x - left) / (right - left)) * (high - low);
    at = steps.reduce((a, b, i) => (Math.abs(b - step) < Math.abs(steps[a] - step) ? i : a), 0);
    show();
  });
  chart.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    at = Math.min(Math.max(at + move, 0), steps.length - 1);
    show();
  });
}
"""

Point = tuple[float, float]  # step and value


@dataclass(frozen=True)
class Line:
    """A line of a chart: its name, and its points by rising step."""

    name: str
    points: Sequence[Point]


def chart(title: str, lines: Sequence[Line]) -> Markup:
    """Draw lines over steps, with axes, a legend, and a place for what is read off.

    Lines without points are left out; there must be one with points.
    """
    drawn = [Line(line.name, thinned(line.points)) for line in lines if line.points]
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

    polylines = [
        element(
            "polyline",
            points=" ".join(f"{x},{y}" for x, y in (place(*point) for point in line.points)),
            class_=f"c{i % N_COLOURS}",
        )
        for i, line in enumerate(drawn)
    ]
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
        data_chart=json.dumps(data),
    )
    legend = element("ul", [_legend(i, line) for i, line in enumerate(drawn)], class_="legend")
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


def _legend(i: int, line: Line) -> Markup:
    swatch = element(
        "svg", element("path", d="M0 5H20", class_=f"c{i % N_COLOURS}"), viewBox="0 0 20 10"
    )
    return element("li", swatch, " ", line.name, ": ", number_text(line.points[-1][1]))


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
