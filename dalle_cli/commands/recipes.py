"""`dalle recipes`: the shipped recipes, and whether a recipe is sound."""

import json

from dalle_cli.console import Terminal
from dalle_cli.recipe import load_recipe, read_recipe, shipped_recipes


def list_recipes(terminal: Terminal) -> None:
    """Name the shipped recipes, each with the first comment of its file."""
    about = {
        name: _first_comment(path.read_text("utf-8")) for name, path in shipped_recipes().items()
    }
    terminal.result("\n".join(f"{name:<22}{text}" for name, text in about.items()), about)


def show_recipe(name: str, terminal: Terminal) -> None:
    """Print a recipe's file, comments and all, to be redirected into a recipe of one's own."""
    text = read_recipe(name)
    terminal.result(text.rstrip("\n"), {"name": name, "text": text})


def check_recipe(name: str, overrides: list[str], terminal: Terminal) -> None:
    """Check a recipe and print it as it would run; raises UsageError listing every problem."""
    recipe = load_recipe(name, overrides)
    resolved = recipe.model_dump()
    terminal.say(f"{name} is sound")
    terminal.result(json.dumps(resolved, indent=1), resolved)


def _first_comment(text: str) -> str:
    return text.splitlines()[0].removeprefix("#").strip() if text.startswith("#") else ""
