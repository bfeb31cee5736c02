"""Every key that a recipe may have, as data: what `dalle recipes keys` prints.

All is read from the tables of `config` and the strings below their fields, parsed on demand:
pydantic would collect them (`use_attribute_docstrings`) at every start, in a tenth of a second.
"""

import ast
import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dalle_cli.config import RECIPE_TYPES, Unit, tables, unclip, unclip_recipes

SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
TYPES = {int: "integer", float: "number", bool: "true, false"}


@dataclass(frozen=True)
class RecipeKey:
    """A key, or a table of keys, under the name by which `--set` changes it.

    default  None where the key is required, and of a table
    """

    name: str
    type: str
    bounds: str
    unit: str
    required: bool
    default: Any
    meaning: str


def recipe_keys(kind: str) -> list[RecipeKey]:
    """List the keys of a kind of recipe in the order of its tables, each table before its keys."""
    return list(_keys(RECIPE_TYPES[kind]))


def _keys(table: type[BaseModel], prefix: str = "") -> Iterator[RecipeKey]:
    for name, field in table.model_fields.items():
        inner = _table_in(field.annotation)
        meaning = _text_below(table, name) or inspect.getdoc(inner) or ""
        yield RecipeKey(
            name=prefix + name,
            type="table" if inner else _type(field.annotation),
            bounds=_bounds(field),
            unit=next((note.name for note in field.metadata if isinstance(note, Unit)), ""),
            required=field.is_required(),
            default=None if inner or field.is_required() else field.default,
            meaning=" ".join(meaning.split()),
        )
        if inner is not None:
            yield from _keys(inner, f"{prefix}{name}.")


def _table_in(annotation: Any) -> type[BaseModel] | None:
    """Return the table that an annotation allows, if it allows one that is not in a list."""
    candidates = () if get_origin(annotation) is list else (annotation, *get_args(annotation))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _type(annotation: Any) -> str:
    """Name the values that an annotation allows, as TOML spells them."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(json.dumps(value) for value in arguments)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is list:
        return f"list of {_type(arguments[0])}s"
    if arguments:
        return " or ".join(_type(argument) for argument in arguments if argument is not NoneType)
    return "table" if issubclass(annotation, BaseModel) else TYPES[annotation]


def _bounds(field: FieldInfo) -> str:
    """Write the bounds of a number; of a list, its length and the bounds of its items."""
    if get_origin(field.annotation) is not list:
        return _range(field.metadata)

    length = next((note.min_length for note in field.metadata if hasattr(note, "min_length")), 0)
    (item,) = get_args(field.annotation)
    bounds = _range(FieldInfo.from_annotation(item).metadata)
    return f"of length {length}, each {bounds}" if length else ""


def _range(metadata: list[Any]) -> str:
    found = [(sign, getattr(note, name, None)) for note in metadata for name, sign in SIGNS.items()]
    return ", ".join(f"{sign} {bound:,}" for sign, bound in found if bound is not None)


def _text_below(table: type[BaseModel], field: str) -> str | None:
    """Return the string below a field, in the class of a table or in the one it inherits from."""
    texts = _field_texts()
    found = (texts.get((base.__name__, field)) for base in table.__mro__)
    return next((text for text in found if text is not None), None)


@cache
def _field_texts() -> dict[tuple[str, str], str]:
    """Map class and field to the string that follows the field, for all classes of `config`."""
    modules = (ast.parse(inspect.getsource(module)) for module in (tables, unclip, unclip_recipes))
    return {
        (table.name, field.target.id): text.value.value
        for module in modules
        for table in module.body
        if isinstance(table, ast.ClassDef)
        for field, text in pairwise(table.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        if isinstance(text.value.value, str)
    }
