"""The frame of every page: its head, its colours, and a policy that allows nothing but itself.

Text comes from strangers (captions, file names), so that elements are made here, escaped, and never
by formatting.
"""

import base64
import hashlib
from collections.abc import Iterable
from html import escape

from dalle_cli.errors import printable

STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --faint: #6b6b70; --ground: #fff; --line: #ddd }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8ea; --faint: #a0a0a6; --ground: #18181a; --line: #3a3a3e }
}
* { box-sizing: border-box }
body {
  margin: 0 auto; max-width: 80rem; padding: 1rem; color: var(--ink); background: var(--ground);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere;
}
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
code { font: .85rem/1.4 ui-monospace, monospace }
table { border-collapse: collapse }
th { text-align: left; font-weight: normal; color: var(--faint) }
th, td { padding: .1rem 1rem .1rem 0; vertical-align: top }
"""
VOID = {"br", "img", "input", "link", "meta"}  # elements without an end


class Markup(str):
    """HTML that is escaped already."""


Content = str | Iterable["Content"]


def element(name: str, /, *contents: Content, **attributes: str | float | bool) -> Markup:
    """Build an element; text is escaped unless it is `Markup`.

    attributes  a trailing underscore is dropped (`class_`), True is an attribute without a value,
                False is none
    """
    words = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(key)
        elif value is not False:
            words.append(f'{key}="{escape(printable(str(value)), quote=True)}"')

    start = f"<{' '.join(words)}>"
    return Markup(start if name in VOID else f"{start}{markup(contents)}</{name}>")


def markup(content: Content) -> Markup:
    """Join contents, escaping what is not `Markup`."""
    if isinstance(content, Markup):
        return content
    if isinstance(content, str):
        return Markup(escape(printable(content)))
    return Markup("".join(map(markup, content)))


def document(
    title: str, *body: Content, style: str = "", script: str = "", asks_its_server: bool = False
) -> str:
    """Return a whole page.

    style            of this kind of page, after the common one
    script           that runs once the page is there
    asks_its_server  whether the script may send requests to the server that the page came from

    The page may show pictures that lie beside it, and load or run nothing else.
    """
    styles = STYLE + style
    policy = f"default-src 'none'; img-src 'self' file: data:; style-src {_source(styles)}"
    if script:
        policy += f"; script-src {_source(script)}"
    if asks_its_server:
        policy += "; connect-src 'self'"
    head = [
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        # else browsers ask the server of a page for an icon
        element("link", rel="icon", href="data:,"),
        element("title", title),
        Markup(f"<style>{styles}</style>"),
    ]
    ending = Markup(f"<script>{script}</script>" if script else "")
    page = element("html", element("head", head), element("body", body, ending), lang="en")
    return f"<!doctype html>\n{page}\n"


def _source(text: str) -> str:
    """Return how a policy names an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
