"""Recorded recipes as TOML: nothing is lost, whatever the keys and values are."""

import tomllib

import pytest

from dalle_cli.recipe import load_recipe, parse_recipe, shipped_recipes, without_absent
from dalle_cli.recipe_text import toml_text
from dalle_cli.schedules import extend_recipe


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_recipe_survives_being_written(name: str) -> None:
    recipe = extend_recipe(load_recipe(name, []), 100, restart_lr=True)
    text = toml_text(without_absent(recipe.model_dump()))
    assert parse_recipe(tomllib.loads(text), "written") == recipe


def test_strange_keys_and_values_are_quoted() -> None:
    tables = {"a b": 'x"\n', "t": {"[k]": [1, 2.5e-300, False], "ü": {"i": [{"j": "#"}]}}}
    assert tomllib.loads(toml_text(tables)) == tables
