"""The layers of the package, read from its imports without running any."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1] / "dalle_cli"

LAYERS = [
    {"", "errors", "config", "run_dir", "untrusted", "ranks"},
    {"recipe", "console", "jobs", "launcher"},
    {
        "models", "losses", "metrics", "viz",
        "data", "data.order", "data.images", "data.augment", "data.tokenizer", "data.merge_learners",
        "data.clip_tokenizer", "data.shapes", "data.rows",
    },
    {
        "repetition", "sampling", "drawing", "decode_width", "drawn_folder", "writer_thread", "reranking",
        "image_prompt",
        "embedding", "embedding_cache", "loading", "interop",
        "data.sources", "data.prompts", "data.picture_lists", "data.preparation", "data.loader", "data.token_shards",
    },
    {"training", "scoring", "drawing_job"},
    {"commands"},
    {"cli", "__main__"},
]  # fmt: skip
ALLOWED = [{0}, {0}, {0, 2}, {0, 2, 3}, {0, 1, 2, 3, 4}, {0, 1, 2, 3, 4}, {0, 1, 6}]
ALLOWED_INSIDE_FUNCTIONS = {6: {0, 1, 2, 3, 4, 5, 6}}
SINGLE_IMPORTERS = {"youtokentome": "data.merge_learners", "deepspeed": "training.deepspeed_engine"}


class Import(NamedTuple):
    """One name that a module takes from elsewhere."""

    importer: str
    target: str
    in_function: bool
    line: int


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports_of(module: str) -> Iterator[Import]:
    """List what a module imports when it runs; blocks for type checkers alone do not run."""
    pending: list[tuple[ast.AST, bool]] = [(ast.parse(MODULES[module].read_text("utf-8")), False)]
    while pending:
        node, in_function = pending.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            pending += [(child, in_function) for child in node.orelse]
            continue
        in_function |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for target in targets_of(node):
            yield Import(module, target, in_function, node.lineno)
        pending += [(child, in_function) for child in ast.iter_child_nodes(node)]


def targets_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"a relative import in line {node.lineno}"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def own_module(target: str) -> str | None:
    """Name the module of this package that an import reaches; None for other packages."""
    parts = target.split(".")
    if parts[0] != "dalle_cli":
        return None
    name = ".".join(parts[1:])
    return name if name in MODULES else ".".join(parts[1:-1])


def layer_of(module: str) -> int:
    while True:
        for number, names in enumerate(LAYERS):
            if module in names:
                return number
        assert "." in module, f"{module} is in no layer"
        module = module.rpartition(".")[0]


def is_importer(module: str, package: str) -> bool:
    return any(found.target.split(".")[0] == package for found in imports_of(module))


@pytest.mark.parametrize("module", MODULES)
def test_imports_respect_the_layers(module: str) -> None:
    layer = layer_of(module)
    for found in imports_of(module):
        target = own_module(found.target)
        if target is None or target == "":
            continue
        allowed = ALLOWED[layer] | (ALLOWED_INSIDE_FUNCTIONS.get(layer, set()) if found.in_function else set())
        assert layer_of(target) in allowed, f"line {found.line} imports {target}"


def test_commands_do_not_import_one_another() -> None:
    for module in MODULES:
        if module.startswith("commands."):
            targets = [own_module(found.target) or "" for found in imports_of(module)]
            assert not [target for target in targets if target.startswith("commands")], module


def test_models_know_of_nothing_but_models_and_errors() -> None:
    for module in MODULES:
        if module.split(".")[0] == "models":
            for found in imports_of(module):
                target = own_module(found.target)
                assert target is None or target == "errors" or target.split(".")[0] == "models", module


@pytest.mark.parametrize("package", SINGLE_IMPORTERS)
def test_awkward_package_has_one_importer(package: str) -> None:
    assert {module for module in MODULES if is_importer(module, package)} <= {SINGLE_IMPORTERS[package]}


def test_typer_stays_in_the_command_line() -> None:
    assert {module.split(".")[0] for module in MODULES if is_importer(module, "typer")} == {"cli"}


def test_command_line_imports_no_torch_of_its_own() -> None:
    for module in MODULES:
        if layer_of(module) in (0, 1, 6):
            assert not is_importer(module, "torch"), module


def test_nothing_is_unpickled() -> None:
    """torch.load included: weights and state are safetensors and JSON, and others' pickles have a reader of ours."""
    for module, path in MODULES.items():
        assert not is_importer(module, "pickle"), module
        calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute)]
        named = {(node.value.id, node.attr) for node in calls if isinstance(node.value, ast.Name)}
        assert ("torch", "load") not in named, module
