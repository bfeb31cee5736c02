"""A recipe's tables as TOML, for recipes that are recorded as JSON."""

import json
from collections.abc import Iterator, Mapping
from typing import Any


def toml_text(tables: Mapping[str, Any]) -> str:
    """Return tables in TOML: a heading for each, and tables in tables on one line."""
    return "\n".join(_lines(tables)) + "\n"


def _lines(tables: Mapping[str, Any]) -> Iterator[str]:
    for name, value in tables.items():
        if not isinstance(value, dict):
            yield f"{_key(name)} = {_value(value)}"

    for name, table in tables.items():
        if isinstance(table, dict):
            yield f"\n[{_key(name)}]"
            yield from (f"{_key(key)} = {_value(value)}" for key, value in table.items())


def _value(value: Any) -> str:
    """Write a value as TOML does, which for text, numbers and booleans is what JSON does."""
    if isinstance(value, dict):
        pairs = (f"{_key(key)} = {_value(inner)}" for key, inner in value.items())
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value)


def _key(name: str) -> str:
    """Write a key of letters, digits, hyphens and underscores bare, and any other quoted."""
    is_bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if is_bare else json.dumps(name)
