"""The layers of the package, read from its imports without running any."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1] / "dalle_cli"

# from the ground up: a module imports what stands in an earlier row, or in its own folder
LAYERS = [
    {"", "errors", "quantities"},
    {"config", "models", "losses", "metrics"},
    {"storage", "data.shuffling", "schedules"},
    {"runtime"},
    {"data", "interop", "viz", "pages", "recipe", "recipe_text", "console"},
    {"loading"},
    {"scoring"},
    {"generation"},
    {"evaluation", "serving"},
    {"training"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
INFERENCE = {"runtime", "storage", "loading", "scoring", "generation", "evaluation", "serving"}
TORCH_FREE = {
    "errors",
    "quantities",
    "config",
    "recipe",
    "recipe_text",
    "schedules",
    "console",
    "cli",
    "storage.atomic",
    "storage.integrity.checksums",
    "storage.integrity.disk_space",
    "storage.run_dir",
    "storage.shipped",
    "runtime.processes.ranks",
    "runtime.processes.launcher",
    "runtime.signals",
}
EMPTY_VERBS = {"Give", "Say", "Tell", "Let", "Take"}  # they say nothing about a function
SINGLE_IMPORTERS = {
    "youtokentome": "data.merge_learners",
    "deepspeed": "training.engines.deepspeed",
    "torch_fidelity": "evaluation.figures.inception",
    "imagehash": "scoring.overlap.perceptual_hash",
    "trackio": "training.trackers.trackio",
    "wandb": "training.trackers.wandb",
}

WRITES = {"write_text", "write_bytes", "copyfile", "copy2", "copytree", "save_file"}
# inside an `atomic_write`, or in a folder of their own that is renamed when it is whole
OWN_WRITERS = {"data.token_shards", "training.checkpoint"}

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Import(NamedTuple):
    """A name that a module imports."""

    importer: str
    target: str
    in_function: bool
    line: int


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports_of(module: str) -> Iterator[Import]:
    """Yield what a module imports when it runs; blocks for type checkers do not run."""
    pending: list[tuple[ast.AST, bool]] = [(ast.parse(MODULES[module].read_text("utf-8")), False)]

    while pending:
        node, in_function = pending.pop()
        if (
            isinstance(node, ast.If)
            and isinstance(node.test, ast.Name)
            and node.test.id == "TYPE_CHECKING"
        ):
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
    """Return the module of this package that an import reaches, None for other packages."""
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
    for found in imports_of(module):
        target = own_module(found.target)
        if target is None or target == "":
            continue
        is_neighbour = target.split(".")[0] == module.split(".")[0]
        assert is_neighbour or layer_of(target) < layer_of(module), (
            f"line {found.line} imports {target}"
        )


def test_inference_imports_nothing_of_training() -> None:
    for module in MODULES:
        if module.split(".")[0] in INFERENCE:
            targets = [own_module(found.target) or "" for found in imports_of(module)]
            assert not [target for target in targets if target.startswith("training")], module


def test_folders_stay_small_enough_to_be_read() -> None:
    """Ten modules at the root and twelve in a folder: one more asks for a folder."""
    names = [module for module in MODULES if module and module != "__main__"]
    folders = Counter(module.rpartition(".")[0] for module in names)
    packages = {module.rpartition(".")[0] for module in names}
    root = [module for module in names if "." not in module and module not in packages]
    assert len(root) <= 10, root
    for folder, count in folders.items():
        if folder:
            inner = [m for m in names if m.rpartition(".")[0] == folder and m in packages]
            assert count - len(inner) <= 12, folder


def test_commands_do_not_import_one_another() -> None:
    """A command is a module of `commands/` that the command line imports; others belong to one."""
    commands = {
        target
        for module in MODULES
        if module.startswith("cli.")
        for found in imports_of(module)
        if (target := own_module(found.target) or "").startswith("commands.")
    }
    assert commands
    for module in MODULES:
        if module.startswith("commands."):
            targets = [own_module(found.target) or "" for found in imports_of(module)]
            assert not commands.intersection(targets), module


def test_models_know_of_nothing_but_models_and_errors() -> None:
    for module in MODULES:
        if module.split(".")[0] == "models":
            for found in imports_of(module):
                target = own_module(found.target)
                assert target is None or target == "errors" or target.split(".")[0] == "models", (
                    module
                )


@pytest.mark.thorough
@pytest.mark.parametrize("package", SINGLE_IMPORTERS)
def test_awkward_package_has_one_importer(package: str) -> None:
    assert {module for module in MODULES if is_importer(module, package)} <= {
        SINGLE_IMPORTERS[package]
    }


@pytest.mark.parametrize("package", ["imagehash", "trackio", "wandb"])
def test_package_of_an_extra_is_imported_where_it_is_used(package: str) -> None:
    found = imports_of(SINGLE_IMPORTERS[package])
    assert all(one.in_function for one in found if one.target.split(".")[0] == package)


def test_typer_stays_in_the_command_line() -> None:
    assert {module.split(".")[0] for module in MODULES if is_importer(module, "typer")} == {"cli"}


def test_command_line_imports_no_torch_of_its_own() -> None:
    for module in MODULES:
        if module in TORCH_FREE or module.split(".")[0] in TORCH_FREE:
            assert not is_importer(module, "torch"), module


@pytest.mark.thorough
def test_nothing_is_unpickled() -> None:
    """Not even by torch.load: we write safetensors and JSON, and read others' pickles ourselves."""
    for module, path in MODULES.items():
        assert not is_importer(module, "pickle"), module
        calls = [
            node
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Attribute)
        ]
        named = {(node.value.id, node.attr) for node in calls if isinstance(node.value, ast.Name)}
        assert ("torch", "load") not in named, module


def test_files_are_written_by_storage_alone() -> None:
    """Which writes them whole or not at all, and names them where a disk is full."""
    for module, path in MODULES.items():
        if module.split(".")[0] == "storage" or module in OWN_WRITERS:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
                assert name not in WRITES, f"{module}, line {node.lineno}: {name}"


def test_public_functions_and_classes_have_a_name_of_their_own() -> None:
    """Commands of the command line included: one name, one thing, wherever it is searched for."""
    homes: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, Definition) and not node.name.startswith("_"):
                homes.setdefault(node.name, set()).add(module)

    assert {name: modules for name, modules in homes.items() if len(modules) > 1} == {}


@pytest.mark.parametrize("module", MODULES)
def test_docstrings_open_with_a_word_that_says_something(module: str) -> None:
    nodes = ast.walk(ast.parse(MODULES[module].read_text("utf-8")))
    docstrings = [
        ast.get_docstring(node) or "" for node in nodes if isinstance(node, Definition | ast.Module)
    ]
    assert not [text for text in docstrings if text.split(" ")[0].strip(".,:") in EMPTY_VERBS]


@pytest.mark.parametrize("module", MODULES)
def test_lines_have_at_most_100_columns(module: str) -> None:
    lines = MODULES[module].read_text("utf-8").splitlines()
    assert not [number for number, line in enumerate(lines, 1) if len(line) > 100]


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("commands.")])
def test_commands_have_at_most_120_lines(module: str) -> None:
    """What a command decides about a job belongs to the job."""
    assert len(MODULES[module].read_text("utf-8").splitlines()) <= 120
