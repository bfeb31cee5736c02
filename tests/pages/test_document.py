"""Pages: what strangers wrote stays text, and nothing is loaded or run."""

import base64
import hashlib
import re
from html.parser import HTMLParser

from dalle_cli.pages.document import Markup, document, element, markup

HOSTILE = """<script>alert(1)</script> " ' & \x1b[31m \u202e"""


class Reader(HTMLParser):
    """Collects elements and text as a browser reads them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_text_and_attributes_are_escaped() -> None:
    page = Reader(element("p", HOSTILE, element("img", alt=HOSTILE), class_="x", hidden=True))
    shown = HOSTILE.replace("\x1b", "\ufffd").replace("\u202e", "\ufffd")
    assert page.elements == [("p", {"class": "x", "hidden": None}), ("img", {"alt": shown})]
    assert "".join(page.text) == shown and not page.open


def test_contents_are_joined_and_markup_is_left_alone() -> None:
    assert markup(["a<", [Markup("<br>"), "b"]]) == "a&lt;<br>b"
    assert element("input", disabled=False, size=3) == '<input size="3">'


def test_policy_allows_the_style_of_the_page_and_pictures_beside_it() -> None:
    page = document(HOSTILE, element("p", "text"), style="p { color: red }")
    read = Reader(page)
    (style,) = re.findall("<style>(.*?)</style>", page, re.DOTALL)
    policy = next(a["content"] for tag, a in read.elements if "http-equiv" in a)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src 'self' file: data:; style-src 'sha256-{digest}'"
    )
    assert "script" not in [tag for tag, _ in read.elements] and not read.open
    assert "p { color: red }" in style and page.startswith("<!doctype html>")


def test_script_may_ask_the_server_of_its_page_where_that_is_wanted() -> None:
    script = "fetch('jobs')"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    for asks, ending in ((False, ""), (True, "; connect-src 'self'")):
        read = Reader(document("title", script=script, asks_its_server=asks))
        policy = next(a["content"] for tag, a in read.elements if "http-equiv" in a)
        assert policy is not None and policy.endswith(f"; script-src 'sha256-{digest}'{ending}")
