"""Charts: what is drawn is where its numbers say."""

import html
import json
import re

import pytest

from dalle_cli.pages.chart import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Line,
    chart,
    nice_ticks,
    number_text,
    thinned,
)


def polylines(svg: str) -> list[list[tuple[float, float]]]:
    return [
        [tuple(map(float, pair.split(","))) for pair in points.split()]
        for points in re.findall('<polyline points="(.*?)"', svg)
    ]


def test_points_are_placed_by_the_axes() -> None:
    svg = chart("Loss", [Line("train", [(0, 0.0), (50, 10.0), (100, 5.0)])])
    assert polylines(svg) == [
        [
            (LEFT, HEIGHT - BOTTOM),
            ((LEFT + WIDTH - RIGHT) / 2, TOP),
            (WIDTH - RIGHT, (TOP + HEIGHT - BOTTOM) / 2),
        ]
    ]
    assert re.findall("<text[^>]*>(.*?)</text>", svg) == ["0", "5", "10", "step 0", "100"]


def test_what_the_script_reads_are_the_numbers() -> None:
    svg = chart('"<b>', [Line("a<b", [(1, 0.123456), (2, 3.0)]), Line("none", [])])
    data = json.loads(html.unescape(re.findall('data-chart="(.*?)"', svg)[0]))
    assert data == {
        "names": ["a<b"],
        "lines": [[[1, 0.12346], [2, 3.0]]],
        "view": [1, 2, LEFT, WIDTH - RIGHT],
    }
    assert "<b>" not in svg and svg.count("<li>") == 1


def test_lines_of_a_colour_are_told_apart_by_dashes() -> None:
    points = [(1, 1.0), (2, 2.0)]
    svg = chart("Loss", [Line("a", points, 1), Line("b", points, 1, 1), Line("c", [(1, 1.0)], 9)])
    assert re.findall('<polyline [^>]*class="(.*?)"', svg) == ["c1", "c1 dashed", "c1 point"]
    assert re.findall('<path d="M0 5H30" class="(.*?)"', svg) == ["c1", "c1 dashed", "c1"]


def test_many_lines_have_fewer_points() -> None:
    points = [(float(i), 1.0) for i in range(1000)]
    few, many = (chart("Loss", [Line("a", points)] * n) for n in (2, 10))
    assert {len(line) for line in polylines(few)} == {334}
    assert {len(line) for line in polylines(many)} == {200}


@pytest.mark.parametrize("value", [0.0, 3.7, -2.0, 1e-30, 1e30])
def test_a_single_point_and_a_constant_line_can_be_drawn(value: float) -> None:
    for points in ([(5, value)], [(5, value), (6, value)]):
        for x, y in polylines(chart("x", [Line("x", points)]))[0]:
            assert LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 10, [0, 5, 10]), (2.4, 6.3, [2, 3, 4, 5, 6, 7]), (-1, 1, [-1, -0.5, 0, 0.5, 1])],
)
def test_ticks_are_round_numbers_around_the_values(low, high, ticks) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_long_lines_are_thinned_to_means() -> None:
    points = [(float(i), float(i % 2)) for i in range(1000)]
    few = thinned(points, 250)
    assert len(few) == 250 and {value for _, value in few} == {0.5} and few[-1][0] == 999
    assert thinned(points[:250], 250) == points[:250]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.25, "0.25"), (1234.5, "1,234"), (4e-5, "4e-5"), (1.5e-4, "1.5e-4"),
        (2e6, "2e6"), (-0.5, "-0.5"),
    ],
)  # fmt: skip
def test_numbers_are_short(value: float, text: str) -> None:
    assert number_text(value) == text
