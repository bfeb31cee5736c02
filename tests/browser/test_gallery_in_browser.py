"""The page that `dalle generate` writes in a browser: pictures beside it, and nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest
from chromium import Page

pytestmark = pytest.mark.browser

CAPTIONS = ["a red ring", "a <b>cross</b> & more"]


@pytest.fixture
def folder(transformer_run: Path, clip_run: Path, tmp_path: Path, dalle: Callable) -> Path:
    out = tmp_path / "out"
    words = ["-n", 3, "--clip", clip_run, "--precision", "fp32", "--out", out]
    ended = dalle("generate", transformer_run, *CAPTIONS, *words)
    assert ended.code == 0, ended.err
    return out


def test_gallery_shows_its_pictures_and_loads_nothing_else(
    page: Page, folder: Path, check_looks: Callable
) -> None:
    page.open((folder / "index.html").as_uri())
    page.wait_for("[...document.images].every((one) => one.complete)")
    assert page.evaluate("[...document.images].map((one) => one.naturalWidth)") == [32] * 6
    check_looks("gallery")

    names = ["index.html", *(f"{number:04d}.png" for number in range(6))]
    assert set(page.requests()) == {(folder / name).as_uri() for name in names}
    assert page.problems() == []


def test_captions_stay_text_and_commands_open_by_keys(page: Page, folder: Path) -> None:
    page.open((folder / "index.html").as_uri())
    headings = page.evaluate("[...document.querySelectorAll('h2')].map((one) => one.textContent)")
    assert headings == CAPTIONS
    page.focus("summary")
    page.press("Enter")
    page.wait_for("document.querySelector('details').open")
    command = page.evaluate("document.querySelector('details code').textContent")
    assert command.startswith("dalle generate ") and "-n 1" in command
    assert page.problems() == []
