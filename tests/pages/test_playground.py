"""The page on which a model is tried: what strangers wrote stays text, every field has a label."""

import re
from html.parser import HTMLParser

import pytest

from dalle_cli.pages.playground import SCRIPT, NumberField, playground

HOSTILE = """<script>alert(1)</script> " ' & </title>"""
NUMBERS = [
    NumberField("n", "Pictures", 1, 64, 4),
    NumberField("seed", "Seed", -5, 5, None, note="a new one"),
    NumberField("temperature", "Temperature", 0, 100, 1, is_whole=False),
]


class Reader(HTMLParser):
    """Collects elements, and the text of each label with the field in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.labels: dict[str, str] = {}
        self.label: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "label":
            self.label = ""
        elif tag in ("input", "select"):
            assert self.label is not None, attrs
            self.labels[str(dict(attrs)["name"])] = self.label

    def handle_endtag(self, tag: str) -> None:
        if tag == "label":
            self.label = None

    def handle_data(self, data: str) -> None:
        if self.label is not None:
            self.label += data

    def field(self, name: str) -> dict[str, str | None]:
        return next(values for _, values in self.elements if values.get("name") == name)


@pytest.fixture
def page() -> str:
    return playground(
        HOSTILE,
        side=64,
        caption_length=1000,
        numbers=NUMBERS,
        rankings=[("clip", "CLIP")],
        kept_rows=NumberField("keep_rows", "Rows to keep", 1, 15, 7),
        examples=[HOSTILE, "a ring & more"],
        max_bytes=123,
        max_jobs=9,
    )


def test_every_field_has_a_label(page: str) -> None:
    assert Reader(page).labels == {
        "caption": "Caption",
        "n": "Pictures",
        "seed": "Seed",
        "temperature": "Temperature",
        "rank": "Ranked by",
        "picture": "Picture",
        "keep_rows": "Rows to keep",
    }


def test_fields_have_the_bounds_of_their_numbers(page: str) -> None:
    read = Reader(page)
    n, seed, temperature = (read.field(name) for name in ("n", "seed", "temperature"))
    assert (n["min"], n["max"], n["value"], n["step"]) == ("1", "64", "4", "1")
    assert (seed["min"], seed["max"], seed["value"], seed["placeholder"]) == (
        "-5",
        "5",
        "",
        "a new one",
    )
    assert temperature["step"] == "any" and read.field("caption")["maxlength"] == "1000"
    form = next(values for tag, values in read.elements if tag == "form")
    assert (form["data-max-bytes"], form["data-max-jobs"]) == ("123", "9")


def test_what_strangers_wrote_stays_text(page: str) -> None:
    read = Reader(page)
    assert [tag for tag, _ in read.elements].count("script") == 1
    assert "&lt;script&gt;alert(1)" in page and "<script>alert" not in page
    links = [values["href"] for tag, values in read.elements if tag == "a"]
    assert links[1] == "?caption=a+ring+%26+more" and "<" not in str(links[0])
    assert read.field("caption")["placeholder"] == HOSTILE


def test_page_loads_nothing_from_elsewhere(page: str) -> None:
    read = Reader(page)
    policy = str(next(values["content"] for _, values in read.elements if "http-equiv" in values))
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    assert policy.endswith("; connect-src 'self'") and "http" not in policy
    assert "://" not in page.replace(HOSTILE, "")
    assert not [values for _, values in read.elements if any(n.startswith("on") for n in values)]
    assert not [values for _, values in read.elements if "style" in values]


def test_script_makes_no_markup_of_text() -> None:
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "</"):
        assert word not in SCRIPT
    assert not re.findall(r"fetch\((?!path)", SCRIPT)
    paths = re.findall(r"""(?:ask|post|postJson)\((["`])(.*?)\1""", SCRIPT)
    assert len(paths) >= 5 and not [path for _, path in paths if path.startswith("/")]


def test_pictures_that_are_small_are_not_blurred() -> None:
    for side, name in ((64, "small"), (256, "large")):
        page = playground(
            "model",
            side=side,
            caption_length=10,
            numbers=[],
            rankings=[],
            kept_rows=NUMBERS[0],
            examples=[],
            max_bytes=1,
            max_jobs=1,
        )
        assert f'<main class="{name}">' in page and "Try:" not in page
