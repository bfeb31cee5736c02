"""The keys of a recipe as data: all of them, as the tables declare them, each with a meaning."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from dalle_cli.commands.reports.recipe_keys import RecipeKey, recipe_keys
from dalle_cli.config import RECIPE_TYPES
from dalle_cli.recipe import load_recipe, shipped_recipes

every_kind = pytest.mark.parametrize("kind", RECIPE_TYPES)


def key_of(kind: str, name: str) -> RecipeKey:
    return next(key for key in recipe_keys(kind) if key.name == name)


def names_in(tables: dict[str, Any], prefix: str = "") -> set[str]:
    """Name every key of nested tables, and every table, by its path."""
    inner = (
        names_in(value, f"{prefix}{key}.")
        for key, value in tables.items()
        if isinstance(value, dict)
    )
    return {prefix + key for key in tables}.union(*inner)


@every_kind
def test_every_key_has_a_meaning_that_is_a_sentence(kind: str) -> None:
    for key in recipe_keys(kind):
        assert key.meaning.endswith(".") and key.meaning[0].isupper(), key


@every_kind
def test_keys_are_listed_once_and_tables_before_what_is_in_them(kind: str) -> None:
    names = [key.name for key in recipe_keys(kind)]
    assert len(names) == len(set(names))
    for place, name in enumerate(names):
        table = name.rpartition(".")[0]
        assert not table or table in names[:place]


@pytest.mark.parametrize("name", shipped_recipes())
def test_all_keys_of_shipped_recipes_are_listed(name: str) -> None:
    recipe = load_recipe(name, [])
    assert names_in(recipe.model_dump()) <= {key.name for key in recipe_keys(recipe.kind)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("training.steps", ("integer", ">= 1, <= 1,000,000,000", "updates", True, None)),
        ("model.n_layers", ("integer", ">= 1, <= 10,000", "", True, None)),
        ("optimizer.eps", ("number", "> 0", "", True, None)),
        ("loss.caption_dropout", ("number", ">= 0, < 1", "", True, None)),
        ("optimizer.betas", ("list of numbers", "of length 2, each >= 0, < 1", "", True, None)),
        ("runtime.workers", ("integer", ">= 0", "processes", False, 2)),
        ("runtime.offload", ('false, "optimizer", "parameters"', "", "", False, False)),
        ("runtime.activation_checkpointing", ('true, false or "auto"', "", "", False, "auto")),
        ("optimizer.plateau", ("table", "", "", False, None)),
        ("optimizer.lr", ("table", "", "", True, None)),
    ],
)
def test_a_key_is_described_as_its_table_declares_it(name: str, expected: tuple) -> None:
    key = key_of("transformer", name)
    assert (key.type, key.bounds, key.unit, key.required, key.default) == expected


def test_a_key_that_a_table_inherits_has_its_meaning() -> None:
    assert "Size of the codebook" in key_of("dvae", "model.vocab_size").meaning


def test_a_union_of_a_number_and_a_switch_names_both() -> None:
    assert key_of("dvae", "loss.min_log_scale").type == "number or false"


@every_kind
def test_command_prints_one_kind_as_markdown_and_as_data(kind: str, dalle: Callable) -> None:
    page = dalle("recipes", "keys", kind).out
    assert all(f"| `{key.name}` |" in page for key in recipe_keys(kind) if "." in key.name)
    rows = json.loads(dalle("recipes", "keys", kind, "--json").out)
    assert [(row["kind"], row["name"]) for row in rows] == [
        (kind, key.name) for key in recipe_keys(kind)
    ]


def test_command_prints_shared_tables_once_and_every_kind_of_data(dalle: Callable) -> None:
    page = dalle("recipes", "keys").out
    assert page.count("| `training.steps` |") == 1 and page.count("| `model.image_size` |") == 3
    rows = json.loads(dalle("recipes", "keys", "--json").out)
    assert {row["kind"] for row in rows} == set(RECIPE_TYPES)


def test_an_unknown_kind_is_refused_with_the_known_ones(dalle: Callable) -> None:
    ended = dalle("recipes", "keys", "gan")
    assert ended.code == 2 and "no such kind of recipe: gan" in ended.err
    assert all(kind in ended.err for kind in RECIPE_TYPES)
