"""The table of mutants keeps up with the code and with the tests."""

import ast

import pytest
from mutants import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize(
    "mutant", MUTANTS, ids=lambda mutant: f"{mutant.file}:{mutant.before[:30]}"
)
def test_mutant_changes_one_place_and_its_test_is_there(mutant: Mutant) -> None:
    text = (ROOT / mutant.path).read_text("utf-8")
    assert text.count(mutant.before) == 1 and mutant.after != mutant.before
    if mutant.path.endswith(".py"):
        ast.parse(text.replace(mutant.before, mutant.after))

    file, _, function = mutant.node.partition("::")
    functions = ast.parse((ROOT / file).read_text("utf-8")).body
    assert function in {node.name for node in functions if isinstance(node, ast.FunctionDef)}
