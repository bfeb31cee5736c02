"""`recipes list`: every recipe with its purpose, wrapped by word."""

from collections.abc import Callable

import pytest

from dalle_cli.recipe import shipped_recipes


@pytest.mark.parametrize("columns", [50, 80, 200])
def test_purposes_are_wrapped_by_word(
    columns: int, dalle: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = dalle("recipes", "list").out.splitlines()
    monkeypatch.setenv("COLUMNS", "1000")
    whole = dalle("recipes", "list").out
    assert max(map(len, lines)) <= columns and " ".join(lines).split() == whole.split()
    assert [line.split()[0] for line in lines if line[0] != " "] == list(shipped_recipes())
