"""The pages against the program: the links, commands, keys, messages and modules in them exist."""

import ast
import re
import shlex
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

import dalle_cli.cli.main  # noqa: F401  fills the application
from dalle_cli.cli.app import app
from dalle_cli.commands.reports.recipe_keys import recipe_keys
from dalle_cli.config import RECIPE_TYPES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dalle_cli"
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
HISTORY = ROOT / "CHANGELOG.md"  # names what is no more
CURRENT = [page for page in PAGES if page != HISTORY]

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(?:^|\s)dalle(?:_cli)?\s")
END_OF_COMMAND = {">", "|", "||", "&&", ";"}
KEYS = {key.name for kind in RECIPE_TYPES for key in recipe_keys(kind)}
SECTIONS = {name.partition(".")[0] for name in KEYS}
VARIABLE = "…"

every_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix()
)
every_current_page = pytest.mark.parametrize(
    "page", CURRENT, ids=lambda page: page.relative_to(ROOT).as_posix()
)


def blocks(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text("utf-8"))


def prose(page: Path) -> str:
    return BLOCK.sub("", page.read_text("utf-8"))


def anchors(page: Path) -> set[str]:
    """Name a page's headings as GitHub does in links."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {words.replace(" ", "-") for words in kept}


def shell_commands(page: Path) -> Iterator[list[str]]:
    """Find the words of each `dalle` command in a page's blocks, from the subcommand on."""
    for block in blocks(page):
        for line in block.replace("\\\n", " ").splitlines():
            if COMMAND.search(line):
                words = shlex.split(line, comments=True)
                start = min(words.index(w) for w in ("dalle", "dalle_cli") if w in words) + 1
                ends = (i for i, word in enumerate(words) if i > start and word in END_OF_COMMAND)
                yield words[start : next(ends, None)]


@cache
def application() -> Any:
    return typer.main.get_command(app)


def parse(words: list[str]) -> None:
    """Parse a command line without running anything; raises click's UsageError for a wrong one."""
    command = application()
    while hasattr(command, "commands"):
        command = command.commands[words[0]]
        words = words[1:]
    command.make_context(command.name, words)


def module_paths() -> set[str]:
    paths = (path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
    return {path for path in paths if not path.endswith("__init__.py")}


@cache
def message_texts() -> list[str]:
    """List every text of the package, with `…` where a value is put in."""
    texts = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else VARIABLE for p in node.values)
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def quoted_messages() -> list[str]:
    """List the messages in the first column of the tables that are headed `message`."""
    text = (DOCS / "troubleshooting.md").read_text("utf-8")
    tables = re.findall(r"^\| message .*\n\|.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    cells = [row.split(" | ")[0] for table in tables for row in table.splitlines()]
    found = [re.search(r"``\s(.+?)\s``|`([^`]+)`", cell) for cell in cells]
    return [match[1] or match[2] for match in found if match is not None]


def test_readme_stays_a_front_door() -> None:
    text = README.read_text("utf-8")
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1300


def test_index_lists_every_page() -> None:
    linked = set(LINK.findall((DOCS / "README.md").read_text("utf-8")))
    assert {page.name for page in DOCS.glob("*.md")} - {"README.md"} <= linked


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@every_current_page
def test_quoted_commands_parse(page: Path) -> None:
    for words in shell_commands(page):
        parse(words)


def test_there_are_commands_to_parse() -> None:
    assert len([words for page in CURRENT for words in shell_commands(page)]) > 30


@every_current_page
def test_quoted_make_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    lines = [line for block in blocks(page) for line in block.splitlines()]
    named = {
        word
        for line in lines
        if line.startswith("make ")
        for word in shlex.split(line, comments=True)[1:]
        if re.fullmatch("[a-z-]+", word)
    }
    assert named <= targets


@every_current_page
def test_recipe_keys_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    named = set(re.findall(r"--set '?([a-z_.]+)\s?=", text))
    spans = re.findall(r"(?<!`)`([a-z]+\.[a-z0-9_.]+)(?: = [^`]*)?`", prose(page))
    named |= {span for span in spans if span.partition(".")[0] in SECTIONS}
    examples = {"section.key", "runtime.recompute"}  # one stands for any; one is said to be gone
    assert named - examples <= KEYS


def test_page_of_recipe_keys_is_fresh(dalle: Callable) -> None:
    """`make docs` writes it."""
    assert (DOCS / "recipe-keys.md").read_text("utf-8") == dalle("recipes", "keys").out


def test_architecture_lists_every_module_once() -> None:
    text = (DOCS / "architecture.md").read_text("utf-8")
    listed = re.findall(r"^\| `([\w/]+\.py)` \|", text, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == module_paths()


@pytest.mark.parametrize("message", quoted_messages())
def test_quoted_messages_are_the_programs(message: str) -> None:
    parts = [part.strip() for part in message.split(VARIABLE)]
    pattern = re.compile(".*".join(map(re.escape, parts)), re.DOTALL)
    assert any(pattern.search(text) for text in message_texts()), message
