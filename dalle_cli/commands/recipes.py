"""`dalle recipes`: the shipped recipes, whether a recipe is valid, and the keys it may have."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby

from dalle_cli.commands.reports.recipe_keys import RecipeKey, recipe_keys
from dalle_cli.commands.reports.wrapped_rows import wrapped_rows
from dalle_cli.config import RECIPE_TYPES
from dalle_cli.console import Terminal
from dalle_cli.errors import UsageError
from dalle_cli.recipe import (
    find_recipe,
    load_recipe,
    read_recipe,
    read_tables,
    shipped_recipes,
)
from dalle_cli.recipe_text import toml_text

KEYS_INTRODUCTION = """\
# Recipe keys

A recipe is a TOML file. A key is written in the table that its name begins with, or changed on the
command line: `--set optimizer.lr.start=1e-3`. An optional table may be left out; what is required
inside it is required where it is there. Appendices are those of Ramesh et al. 2021.

This page is made by `make docs` from `dalle_cli/config/`; `dalle recipes keys` prints it."""
KEYS_HEADER = """\
| key | value | unit | default | meaning |
| --- | --- | --- | --- | --- |
"""

Sections = dict[str, list[RecipeKey]]


def run_list_recipes(terminal: Terminal) -> None:
    """List the shipped recipes, each with the first comment of its file."""
    texts = {name: path.read_text("utf-8") for name, path in shipped_recipes().items()}
    about = {name: _first_comment(text) for name, text in texts.items()}
    terminal.result(wrapped_rows(about), about)


def run_show_recipe(name: str, terminal: Terminal) -> None:
    """Print a recipe's file, comments included, to be redirected into a new one.

    What a run has recorded is printed as TOML, too.
    """
    is_recorded = find_recipe(name).suffix == ".json"
    text = toml_text(read_tables(name)) if is_recorded else read_recipe(name)
    terminal.result(text.rstrip("\n"), {"name": name, "text": text})


def run_check_recipe(name: str, overrides: list[str], terminal: Terminal) -> None:
    """Check a recipe and print it as resolved; raises UsageError listing every problem."""
    resolved = load_recipe(name, overrides).model_dump()
    terminal.say(f"{name} is valid")
    terminal.result(json.dumps(resolved, indent=1), resolved)


def run_list_keys(kind: str | None, terminal: Terminal) -> None:
    """Print the keys of one kind of recipe, or of all: as Markdown, or as a list under `--json`.

    Raises UsageError for a kind that does not exist.
    """
    if kind is not None and kind not in RECIPE_TYPES:
        raise UsageError(
            f"no such kind of recipe: {kind}", f"the kinds are {', '.join(RECIPE_TYPES)}"
        )

    keys = {kind: recipe_keys(kind) for kind in ([kind] if kind else RECIPE_TYPES)}
    facts = [{"kind": kind, **asdict(key)} for kind, rows in keys.items() for key in rows]
    terminal.result("\n\n".join([KEYS_INTRODUCTION, *_chapters(keys)]), facts)


def _chapters(keys: dict[str, list[RecipeKey]]) -> Iterator[str]:
    """Yield headings and tables: first what all of several kinds have in common."""
    kinds = {kind: _sections(rows) for kind, rows in keys.items()}
    first, *others = kinds.values()
    shared = [name for name in first if others and all(o.get(name) == first[name] for o in others)]

    if shared:
        yield "## Every kind"
    yield from (_section(first[name]) for name in shared)

    for kind, sections in kinds.items():
        yield f"## {kind}"
        yield from (_section(rows) for name, rows in sections.items() if name not in shared)


def _sections(keys: list[RecipeKey]) -> Sections:
    """Group keys by the first part of their names."""
    return {name: list(rows) for name, rows in groupby(keys, lambda key: key.name.split(".")[0])}


def _section(keys: list[RecipeKey]) -> str:
    """Write a top-level table: what it is, and a row for each key."""
    top, *rows = keys
    if top.type != "table":
        return KEYS_HEADER + _row(top)
    heading = f"### [{top.name}]" + ("" if top.required else ", optional")
    return f"{heading}\n\n{top.meaning}\n\n{KEYS_HEADER}" + "\n".join(map(_row, rows))


def _row(key: RecipeKey) -> str:
    value = f"{key.type} {key.bounds}".strip()
    cells = (f"`{key.name}`", value, key.unit, _default(key), key.meaning)
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def _default(key: RecipeKey) -> str:
    if key.required:
        return "required"
    is_optional = key.type == "table" or key.default is None
    return "optional" if is_optional else f"`{json.dumps(key.default)}`"


def _first_comment(text: str) -> str:
    return text.splitlines()[0].removeprefix("#").strip() if text.startswith("#") else ""
