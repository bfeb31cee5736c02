"""A browser for all tests here, which are skipped where there is none."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chromium import POOR_CONTRAST, UNLABELLED, Browser, Page, find_chromium

WIDTHS = (400, 1400)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip("there is no Chromium on this machine")
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_page() as page:
        page.resize(WIDTHS[-1])
        yield page


@pytest.fixture
def check_looks(page: Page, tmp_path: Path) -> Callable[[str], None]:
    """Check that a page fits and can be read, narrow and wide, light and dark.

    It is saved for people to look at in the folder that DALLE_SCREENSHOTS names.
    """
    folder = Path(os.environ.get("DALLE_SCREENSHOTS", tmp_path))

    def check(name: str) -> None:
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                page.resize(width, is_dark=scheme == "dark")
                page.save_picture(folder / f"{name}-{width}-{scheme}.png")
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                assert page.evaluate(POOR_CONTRAST) == []
        assert page.evaluate(UNLABELLED) == []

    return check
