"""From a recipe's name or path, and changes on the command line, to a checked and typed recipe.

Every problem is reported at once, with the key's path and the likely spelling. Imports no torch, so
that a mistake in a recipe is reported at once.
"""

import difflib
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, overload

from pydantic import BaseModel, ValidationError

from dalle_cli.config import RECIPE_TYPES, ClipRecipe, DVAERecipe, Recipe, TransformerRecipe
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
    except OSError as error:  # for example, a name that is too long
        raise UsageError(f"no such recipe: {error.strerror}") from None

    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    close = difflib.get_close_matches(name, shipped, n=1)
    hint = f"did you mean `{close[0]}`?" if close else "`dalle recipes list` shows the shipped ones"
    raise UsageError(f"no such recipe: {name}", hint)


def read_recipe(name: str) -> str:
    """Read a recipe's file, comments included; raises UsageError for a file that is not text."""
    path = find_recipe(name)
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not valid TOML: {error}") from None


@overload
def load_recipe(
    name: str, overrides: list[str], *, kind: Literal["dvae"], fallbacks: Sequence[str] = ()
) -> DVAERecipe: ...


@overload
def load_recipe(
    name: str, overrides: list[str], *, kind: Literal["transformer"], fallbacks: Sequence[str] = ()
) -> TransformerRecipe: ...


@overload
def load_recipe(
    name: str, overrides: list[str], *, kind: Literal["clip"], fallbacks: Sequence[str] = ()
) -> ClipRecipe: ...


@overload
def load_recipe(
    name: str, overrides: list[str], *, kind: str | None = None, fallbacks: Sequence[str] = ()
) -> Recipe: ...


def load_recipe(
    name: str, overrides: list[str], *, kind: str | None = None, fallbacks: Sequence[str] = ()
) -> Recipe:
    """Read a recipe, apply `section.key=value` overrides and check the result.

    kind       what the recipe must train, where the command requires one kind
    fallbacks  overrides for keys that no other override names and that the recipe lacks or has off

    Raises UsageError listing every problem.
    """
    try:
        raw = tomllib.loads(read_recipe(name))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{name} is not valid TOML: {error}") from None

    for override in overrides:
        _apply(raw, override)
    overridden = [override.partition("=")[0] for override in overrides]
    for fallback in fallbacks:
        path = fallback.partition("=")[0]
        if path not in overridden and not _look_up(raw, path):
            _apply(raw, fallback)

    found = str(raw.get("kind"))
    if kind is not None and found in RECIPE_TYPES and found != kind:
        raise UsageError(
            f"{name} is a recipe for {found}, not for {kind}", f"try `dalle train-{found} {name}`"
        )
    return parse_recipe(raw, source=name)


def parse_recipe(raw: dict[str, Any], source: str) -> Recipe:
    """Check a recipe's tables; raises UsageError, whose message names the source."""
    recipe_type = RECIPE_TYPES.get(str(raw.get("kind")))
    if recipe_type is None:
        kinds = " or ".join(f'"{kind}"' for kind in RECIPE_TYPES)
        found = f": {raw['kind']!r}" if "kind" in raw else ", but is missing"
        raise UsageError(f"{source}: `kind` must be {kinds}{found}")
    try:
        return recipe_type.model_validate(raw)
    except ValidationError as error:
        problems = _problems(error, recipe_type)
        plural = "problem" if len(problems) == 1 else "problems"
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise UsageError(f"{len(problems)} {plural} in recipe {source}:\n{lines}") from None


def _problems(error: ValidationError, recipe_type: type[BaseModel]) -> list[str]:
    """Describe each key's first problem: a key of several types has one problem with each type."""
    problems: dict[tuple[str, ...], str] = {}
    for problem in error.errors():
        problems.setdefault(_key_path(recipe_type, problem), _describe(problem, recipe_type))
    return list(problems.values())


def _look_up(raw: dict[str, Any], path: str) -> Any:
    """Return the value at a dotted path, or None."""
    value: Any = raw
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _apply(raw: dict[str, Any], override: str) -> None:
    """Set one `section.key=value` in place, the value in TOML's grammar or else a plain string."""
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
    """Write a problem of pydantic's as a line for users."""
    location = _key_path(recipe_type, problem)
    key = ".".join(location) or "recipe"

    if problem["type"] == "extra_forbidden":
        known = _table_of(recipe_type, location[:-1]).model_fields
        close = difflib.get_close_matches(location[-1], known, n=1)
        likely = ".".join((*location[:-1], *close))
        return f"`{key}` is not a key" + (f"; did you mean `{likely}`?" if close else "")
    if problem["type"] == "missing":
        return f"`{key}` is missing"
    if problem["type"] == "model_type":
        fields = ", ".join(_table_of(recipe_type, location).model_fields)
        return f"`{key}`: must be a table with {fields}: {problem['input']!r}"

    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"`{key}`: {message}"
    return f"`{key}`: {message[0].lower()}{message[1:]}: {problem['input']!r}"


def _key_path(recipe_type: type[BaseModel], problem: Any) -> tuple[str, ...]:
    """Return the keys that lead to a problem, without pydantic's marks for types and list items."""
    keys: list[str] = []
    table: type[BaseModel] | None = recipe_type
    for part in map(str, problem["loc"]):
        if table is None:
            break
        keys.append(part)
        table = _table_at(table, part)
    return tuple(keys)


def _table_at(table: type[BaseModel], key: str) -> type[BaseModel] | None:
    """Return the table under a key of another table, or None for a key of another kind."""
    if key not in table.model_fields:
        return None
    annotation = table.model_fields[key].annotation
    candidates = (annotation, *get_args(annotation))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _table_of(table: type[BaseModel], location: tuple[str, ...]) -> type[BaseModel]:
    """Return the table at the end of a path, or the last one on the way."""
    for key in location:
        table = _table_at(table, key) or table
    return table
