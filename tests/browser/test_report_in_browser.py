"""The page of `dalle report` in a browser: it loads nothing, and answers pointer and keys."""

from collections.abc import Callable
from pathlib import Path

import pytest
from chromium import Page

pytestmark = pytest.mark.browser

SHOWN = """
[...document.querySelectorAll(".steps figure")].filter((one) => !one.hidden)
  .map((one) => one.textContent)
"""


@pytest.fixture
def report(tmp_path: Path, dalle: Callable) -> Callable[..., str]:
    """Write the report of some runs; return its address."""

    def write(*runs: Path) -> str:
        ended = dalle("report", *runs, "--out", tmp_path / "report.html")
        assert ended.code == 0, ended.err
        return (tmp_path / "report.html").as_uri()

    return write


def test_report_of_a_run_asks_for_nothing_and_makes_no_error(
    page: Page, report: Callable, transformer_run: Path, check_looks: Callable
) -> None:
    url = report(transformer_run)
    page.open(url)
    check_looks("report")
    assert page.requests() == [url] and page.problems() == []
    assert page.evaluate("[...document.images].every((one) => one.naturalWidth > 0)")


def test_report_of_runs_of_several_kinds(
    page: Page,
    report: Callable,
    dvae_run: Path,
    transformer_run: Path,
    clip_run: Path,
    check_looks: Callable,
) -> None:
    url = report(dvae_run, transformer_run, clip_run)
    page.open(url)
    check_looks("report-of-three")
    assert page.requests() == [url] and page.problems() == []


def test_values_of_a_curve_are_read_by_arrow_keys_and_by_the_pointer(
    page: Page, report: Callable, transformer_run: Path
) -> None:
    page.open(report(transformer_run))
    for _ in range(5):
        page.press("Tab")
        if page.evaluate("document.activeElement.matches('.chart')"):
            break
    read = "document.activeElement.parentElement.querySelector('output').textContent"
    page.press("ArrowLeft")
    earlier = page.evaluate(read)
    page.press("ArrowRight")
    later = page.evaluate(read)
    assert earlier != later and earlier.startswith("step 10: ")

    box = page.evaluate(
        "(({left, top, width, height}) => ({left, top, width, height}))"
        "(document.activeElement.getBoundingClientRect())"
    )
    middle = {"x": box["left"] + box["width"] / 2, "y": box["top"] + box["height"] / 2}
    page.send("Input.dispatchMouseEvent", type="mouseMoved", **middle)
    page.wait_for(f"{read} !== {later!r}")
    assert page.problems() == []


def test_previews_follow_the_slider(page: Page, report: Callable, transformer_run: Path) -> None:
    page.open(report(transformer_run))
    (last,) = page.evaluate(SHOWN)
    page.focus(".steps input")
    page.press("ArrowLeft")
    (before,) = page.evaluate(SHOWN)
    assert before != last and page.problems() == []


def test_report_can_be_printed(page: Page, report: Callable, transformer_run: Path) -> None:
    page.open(report(transformer_run))
    assert page.print_pdf().startswith(b"%PDF-") and page.problems() == []
