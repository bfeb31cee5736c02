"""From a recipe's name or path and the command line's changes to a checked, typed recipe.

Every problem is reported at once, with the key's path and the likely spelling. Imports no torch: a mistake in a recipe
is answered at once.
"""

import difflib
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from dalle_cli.config import RECIPE_TYPES, Recipe
from dalle_cli.errors import UsageError


def shipped_recipes() -> dict[str, Path]:
    """Map the name of every shipped recipe, such as `dvae/demo`, to its file."""
    root = _shipped_root()
    return {
        path.relative_to(root).with_suffix("").as_posix(): path
        for path in sorted(root.glob("*/*.toml"))
    }


def _shipped_root() -> Path:
    installed = Path(str(resources.files("dalle_cli"))) / "recipes"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "recipes"


def find_recipe(name: str) -> Path:
    """Resolve a path or the name of a shipped recipe; raises UsageError if it is neither."""
    try:
        if Path(name).is_file():
            return Path(name)
    except OSError as error:  # a name too long, say
        raise UsageError(f"no such recipe: {error.strerror}") from None
    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    close = difflib.get_close_matches(name, shipped, n=1)
    hint = f"did you mean `{close[0]}`?" if close else "`dalle recipes list` shows the shipped ones"
    raise UsageError(f"no such recipe: {name}", hint)


def read_recipe(name: str) -> str:
    """Read a recipe's file, comments and all; raises UsageError where there is none or it is no text."""
    path = find_recipe(name)
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not valid TOML: {error}") from None


def load_recipe(
    name: str, overrides: list[str], kind: str | None = None, where_off: Sequence[str] = ()
) -> Recipe:
    """Read a recipe, apply `section.key=value` overrides and check all of it.

    kind       what the recipe must train, where the command demands one
    where_off  overrides of keys that no other names, and that the recipe leaves out or switches off
    Raises UsageError that lists every problem.
    """
    try:
        raw = tomllib.loads(read_recipe(name))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{name} is not valid TOML: {error}") from None
    for override in overrides:
        _apply(raw, override)
    said = [override.partition("=")[0] for override in overrides]
    for override in where_off:
        path = override.partition("=")[0]
        if path not in said and not _look_up(raw, path):
            _apply(raw, override)
    found = str(raw.get("kind"))
    if kind is not None and found in RECIPE_TYPES and found != kind:
        raise UsageError(
            f"{name} is a recipe for {found}, not for {kind}", f"try `dalle train-{found} {name}`"
        )
    return parse_recipe(raw, source=name)


def parse_recipe(raw: dict[str, Any], source: str) -> Recipe:
    """Check a recipe's tables; source names it in the message. Raises UsageError."""
    recipe_type = RECIPE_TYPES.get(str(raw.get("kind")))
    if recipe_type is None:
        kinds = " or ".join(f'"{kind}"' for kind in RECIPE_TYPES)
        raise UsageError(f"{source}: `kind` must be {kinds}: {raw.get('kind', 'missing')!r}")
    try:
        return recipe_type.model_validate(raw)
    except ValidationError as error:
        # a key that may be of several types has a problem with each: the first will do
        problems = list(
            {
                _key_path(recipe_type, p): _describe(p, recipe_type)
                for p in reversed(error.errors())
            }.values()
        )
        problems.reverse()
        plural = "problem" if len(problems) == 1 else "problems"
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise UsageError(f"{len(problems)} {plural} in recipe {source}:\n{lines}") from None


def _look_up(raw: dict[str, Any], path: str) -> Any:
    """Look up what stands at a dotted path, None where nothing does."""
    value: Any = raw
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _apply(raw: dict[str, Any], override: str) -> None:
    """Set one `section.key=value` in place; the value in TOML's grammar, or else a plain string."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise UsageError(
            f"not of the form section.key=value: {override}",
            "for example `--set training.steps=500`",
        )
    table = raw
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise UsageError(f"`{key}` in {path} is a value, not a table")
    try:
        table[keys[-1]] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        table[keys[-1]] = text.strip()


def _describe(problem: Any, recipe_type: type[BaseModel]) -> str:
    location = _key_path(recipe_type, problem)
    key = ".".join(location) or "recipe"
    if problem["type"] == "extra_forbidden":
        known = _table_of(recipe_type, location[:-1]).model_fields
        close = difflib.get_close_matches(location[-1], known, n=1)
        return f"`{key}` is not a key" + (
            f"; did you mean `{'.'.join((*location[:-1], close[0]))}`?" if close else ""
        )
    if problem["type"] == "missing":
        return f"`{key}` is missing"
    if problem["type"] == "model_type":
        table = _table_at(_table_of(recipe_type, location[:-1]), location[-1])
        return (
            f"`{key}`: must be a table with {', '.join(table.model_fields)}: {problem['input']!r}"
        )
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"`{key}`: {message}"
    return f"`{key}`: {message[0].lower()}{message[1:]}: {problem['input']!r}"


def _key_path(recipe_type: type[BaseModel], problem: Any) -> tuple[str, ...]:
    """Give the keys that lead to a problem, without what pydantic adds for types and list places."""
    keys: list[str] = []
    table: type[BaseModel] | None = recipe_type
    for part in map(str, problem["loc"]):
        if table is None:
            break
        keys.append(part)
        table = _table_at(table, part)
    return tuple(keys)


def _table_at(table: type[BaseModel], key: str) -> type[BaseModel] | None:
    """Give the table that a key of another table holds, if it holds one."""
    if key not in table.model_fields:
        return None
    annotation = table.model_fields[key].annotation
    candidates = (annotation, *get_args(annotation))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _table_of(table: type[BaseModel], location: tuple[str, ...]) -> type[BaseModel]:
    """Give the table at a path that is known to lead to one."""
    for key in location:
        table = _table_at(table, key) or table
    return table
