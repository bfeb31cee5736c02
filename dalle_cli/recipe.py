"""From a recipe's name or path, and changes on the command line, to a checked and typed recipe.

A recipe is a TOML file, or what a run has recorded of its own in `recipe.json`.

Every problem is reported at once, with the key's path and the likely spelling. Imports no torch, so
that a mistake in a recipe is reported at once.
"""

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, overload

from pydantic import BaseModel, ValidationError

from dalle_cli.config import (
    RECIPE_TYPES,
    AnyPriorRecipe,
    ClipRecipe,
    DecoderRecipe,
    DVAERecipe,
    Recipe,
    TransformerRecipe,
    training_command,
)
from dalle_cli.errors import UsageError
from dalle_cli.schedules import scale_steps, unfinished_schedules
from dalle_cli.storage.integrity.checksums import load_checksummed_json
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.storage.shipped import resolve_run, shipped_folder, suggest_models

# keys of which a table has one: to set it is to remove the other
ALTERNATIVES = {
    "share": "steps",
    "steps": "share",
    "warmup_share": "warmup_steps",
    "warmup_steps": "warmup_share",
    "d_text": "text_vocab_size",
    "text_vocab_size": "d_text",
}


def shipped_recipes() -> dict[str, Path]:
    """Map the name of every shipped recipe, such as `dvae/demo`, to its file."""
    root = shipped_folder("recipes")
    return {
        path.relative_to(root).with_suffix("").as_posix(): path
        for path in sorted(root.glob("*/*.toml"))
    }


def fitting_transformer(grid_size: int, image_vocab_size: int, *, like: str = "") -> str:
    """Return the name of a shipped recipe for a transformer that reads these image tokens.

    like  a dVAE's recipe, whose namesake comes first

    Returns "RECIPE" where none fits.
    """
    names = [name for name in shipped_recipes() if name.startswith("transformer/")]
    namesake = "transformer/" + like.rpartition("/")[2]
    for name in sorted(names, key=lambda name: name != namesake):
        model = load_recipe(name, [], kind="transformer").model
        if (model.grid_size, model.image_vocab_size) == (grid_size, image_vocab_size):
            return name
    return "RECIPE"


def find_recipe(name: str, *, kind: str | None = None) -> Path:
    """Resolve a path, the name of a shipped recipe, or the folder of a run, to a file.

    kind  what the command trains: its recipes are the first to be suggested; None: the name may
          also be that of a shipped model, whose recipe is recorded

    Raises UsageError if it is none of them.
    """
    try:
        if Path(name).is_file():
            return Path(name)
        record = RunDir(Path(name if kind else resolve_run(name))).recipe
        is_run = record.is_file()
    except OSError as error:  # for example, a name that is too long
        raise UsageError(f"no such recipe: {error.strerror}") from None

    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    if is_run:
        return record
    close = _likely_recipe(name, list(shipped), kind)
    hint = f"did you mean `{close}`?" if close else "`dalle recipes list` shows the shipped ones"
    model = suggest_models(name) if kind is None and not close else ""
    raise UsageError(f"no such recipe: {name}", "; ".join(filter(None, (hint, model))))


def _likely_recipe(name: str, shipped: list[str], kind: str | None) -> str | None:
    """Return the shipped recipe that was probably meant, one of the command's kind if possible."""
    of_kind = [recipe for recipe in shipped if kind and recipe.startswith(f"{kind}/")]
    for wanted, candidates in ((name, of_kind), (f"{kind}/{name}", of_kind), (name, shipped)):
        close = difflib.get_close_matches(wanted, candidates, n=1)
        if close:
            return close[0]
    return None


def read_recipe(name: str, *, kind: str | None = None) -> str:
    """Read a recipe's file, comments included; raises UsageError for a file that is not text."""
    path = find_recipe(name, kind=kind)
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not valid TOML: {error}") from None


def read_tables(name: str, *, kind: str | None = None) -> dict[str, Any]:
    """Read the tables of a recipe from TOML, or from the record of a run; nothing is checked.

    Raises UsageError for a file that is neither.
    """
    path = find_recipe(name, kind=kind)
    if path.suffix == ".json":
        return _recorded_tables(path, name)
    try:
        return tomllib.loads(read_recipe(name, kind=kind))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name} is not valid TOML: {error}") from None


def _recorded_tables(path: Path, name: str) -> dict[str, Any]:
    """Read the recipe in a run's `recipe.json`; raises DalleError if the file is damaged."""
    from dalle_cli.storage.run_record import RECORD_SCHEMA  # imports torch

    try:
        tables = load_checksummed_json(path, since=RECORD_SCHEMA)["recipe"]
    except (OSError, ValueError, KeyError, TypeError):
        tables = None
    if not isinstance(tables, dict):
        raise UsageError(f"{name} holds no recipe", "a run's `recipe.json` does, as its `recipe`")
    return without_absent(tables)


@overload
def load_recipe(
    name: str,
    overrides: list[str],
    *,
    kind: Literal["dvae"],
    steps: int | None = None,
    fallbacks: Sequence[str] = (),
) -> DVAERecipe: ...


@overload
def load_recipe(
    name: str,
    overrides: list[str],
    *,
    kind: Literal["transformer"],
    steps: int | None = None,
    fallbacks: Sequence[str] = (),
) -> TransformerRecipe: ...


@overload
def load_recipe(
    name: str,
    overrides: list[str],
    *,
    kind: Literal["clip"],
    steps: int | None = None,
    fallbacks: Sequence[str] = (),
) -> ClipRecipe: ...


@overload
def load_recipe(
    name: str,
    overrides: list[str],
    *,
    kind: Literal["prior"],
    steps: int | None = None,
    fallbacks: Sequence[str] = (),
) -> AnyPriorRecipe: ...


@overload
def load_recipe(
    name: str,
    overrides: list[str],
    *,
    kind: Literal["decoder"],
    steps: int | None = None,
    fallbacks: Sequence[str] = (),
) -> DecoderRecipe: ...


@overload
def load_recipe(
    name: str,
    overrides: list[str],
    *,
    kind: str | None = None,
    steps: int | None = None,
    fallbacks: Sequence[str] = (),
) -> Recipe: ...


def load_recipe(
    name: str,
    overrides: list[str],
    *,
    kind: str | None = None,
    steps: int | None = None,
    fallbacks: Sequence[str] = (),
) -> Recipe:
    """Read a recipe, apply `section.key=value` overrides and check the result.

    kind       what the recipe must train, where the command requires it; `prior` stands for both
               kinds of priors
    steps      length of the run, before the overrides; lengths in updates are scaled with it
    fallbacks  overrides for keys that no other override names and that the recipe lacks or has off

    Raises UsageError listing every problem.
    """
    raw = read_tables(name, kind=kind)
    if steps is not None:
        raw = _with_steps(raw, steps, source=name)

    for override in overrides:
        _apply(raw, override)
    overridden = [override.partition("=")[0] for override in overrides]
    for fallback in fallbacks:
        path = fallback.partition("=")[0]
        if path not in overridden and not _look_up(raw, path):
            _apply(raw, fallback)

    found = str(raw.get("kind"))
    if kind is not None and found in RECIPE_TYPES:
        command = training_command(found)
        if command != training_command(kind):
            message = f"{name} is a recipe for {found}, not for {kind}"
            raise UsageError(message, f"try `dalle {command} {name}`")
    if steps is not None and _look_up(raw, "training.steps") != steps:
        raise UsageError(
            f"`--steps {steps}` contradicts `--set training.steps`", "leave out one of them"
        )
    return parse_recipe(raw, source=name)


def _with_steps(raw: dict[str, Any], steps: int, *, source: str) -> dict[str, Any]:
    """Return a recipe's tables with its lengths in updates scaled to a run of `steps` updates."""
    recipe = parse_recipe(raw, source=source)
    return without_absent(scale_steps(recipe, steps).model_dump())


def without_absent(tables: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's tables without the keys that are absent from it, which are None."""
    return {
        key: without_absent(value) if isinstance(value, dict) else value
        for key, value in tables.items()
        if value is not None
    }


def flat_tables(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a recipe's tables to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, Mapping):
            flat |= flat_tables(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def parse_recipe(raw: dict[str, Any], source: str) -> Recipe:
    """Check a recipe's tables; raises UsageError, whose message names the source."""
    recipe_type = RECIPE_TYPES.get(str(raw.get("kind")))
    if recipe_type is None:
        kinds = " or ".join(f'"{kind}"' for kind in RECIPE_TYPES)
        found = f": {raw['kind']!r}" if "kind" in raw else ", but is missing"
        raise UsageError(f"{source}: `kind` must be {kinds}{found}")
    try:
        recipe = recipe_type.model_validate(raw)
    except ValidationError as error:
        raise UsageError(_listing(_problems(error, recipe_type), source)) from None

    if unfinished := unfinished_schedules(recipe):
        steps = recipe.training.steps
        hint = (
            f"`--steps {steps}`, without `--set training.steps`, shortens all schedules with the "
            "run; `share = 1.0` in place of `steps` makes one follow it"
        )
        raise UsageError(_listing(unfinished, source), hint)
    return recipe


def _listing(problems: list[str], source: str) -> str:
    plural = "problem" if len(problems) == 1 else "problems"
    lines = "\n".join(f"  {problem}" for problem in problems)
    return f"{len(problems)} {plural} in recipe {source}:\n{lines}"


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
    except (ValueError, RecursionError):
        table[keys[-1]] = text.strip()
    table.pop(ALTERNATIVES.get(keys[-1], ""), None)


def _describe(problem: Any, recipe_type: type[BaseModel]) -> str:
    """Write a problem of pydantic's as a line for users."""
    location = _key_path(recipe_type, problem)
    key = ".".join(location) or "recipe"

    if problem["type"] == "extra_forbidden":
        likely = _likely_key(recipe_type, location)
        return f"`{key}` is not a key" + (f"; did you mean `{likely}`?" if likely else "")
    if problem["type"] == "missing":
        return f"`{key}` is missing"
    if problem["type"] == "model_type":
        fields = ", ".join(_table_of(recipe_type, location).model_fields)
        return f"`{key}`: must be a table with {fields}: {problem['input']!r}"

    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"`{key}`: {message}"
    return f"`{key}`: {message[0].lower()}{message[1:]}: {problem['input']!r}"


def _likely_key(recipe_type: type[BaseModel], location: tuple[str, ...]) -> str | None:
    """Return the key that was probably meant: of that table, or the only one of that name."""
    known = _table_of(recipe_type, location[:-1]).model_fields
    close = difflib.get_close_matches(location[-1], known, n=1)
    if close:
        return ".".join((*location[:-1], *close))
    elsewhere = [path for path in _key_names(recipe_type) if path.split(".")[-1] == location[-1]]
    return min(elsewhere, key=lambda path: path.count("."), default=None)


def _key_names(table: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of every key of a table and of those in it."""
    for name in table.model_fields:
        inner = _table_at(table, name)
        yield prefix + name
        if inner is not None:
            yield from _key_names(inner, f"{prefix}{name}.")


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
