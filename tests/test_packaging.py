"""The wheel: it holds all that the commands need, and works where there is no checkout."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dalle_cli import __version__

ROOT = Path(__file__).parents[1]
TINY = ["--set", "training.steps=1", "--set", "runtime.workers=0"]

Python = Callable[..., subprocess.CompletedProcess]


def pip(*words: object) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, shipped_models_folder: Path) -> Path:
    """What the wheel is built from, with another model to ship."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    for name in ("dalle_cli", "recipes", "pretrained"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(shipped_models_folder / "toy", folder / "pretrained" / "toy")
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    pip("wheel", checkout, "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip("install", wheel, "--no-deps", "--target", folder)
    return folder


@pytest.fixture
def python(installed: Path, tmp_path: Path) -> Python:
    """Run Python in an empty folder, on the installed wheel and its dependencies."""
    dependencies = [
        path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), *dependencies])}

    def run(*words: object) -> subprocess.CompletedProcess:
        # -S: an editable installation would put the checkout on the path
        return subprocess.run(
            [sys.executable, "-S", *map(str, words)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_wheel_holds_recipes_models_types_and_licence_and_nothing_else(
    wheel: Path, checkout: Path
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    shipped = [*checkout.glob("recipes/*/*.toml"), *checkout.glob("pretrained/**/*")]
    files = {path.relative_to(checkout).as_posix() for path in shipped if path.is_file()}
    sources = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("dalle_cli/**/*.py")}
    metadata = {name for name in names if name.startswith(f"dalle_cli-{__version__}.dist-info/")}

    assert {"pretrained/toy/about.toml", "pretrained/toy/clip/model/model.safetensors"} < files
    assert names - metadata == {"dalle_cli/py.typed", *sources} | {
        f"dalle_cli/{file}" for file in files
    }
    assert f"dalle_cli-{__version__}.dist-info/licenses/LICENSE" in metadata


def test_installed_package_is_not_the_checkout(python: Python, installed: Path) -> None:
    ended = python("-c", "import dalle_cli, sys; print(dalle_cli.__file__, *sys.path, sep='\\n')")
    file, *path = ended.stdout.splitlines()
    assert Path(file).is_relative_to(installed) and str(ROOT) not in path


def test_installed_package_can_be_run(python: Python) -> None:
    ended = python("-m", "dalle_cli", "--version")
    assert (ended.returncode, ended.stdout) == (0, f"dalle {__version__}\n")


def test_shipped_models_are_found_after_installation(
    python: Python, installed: Path, tmp_path: Path, shipped_models_folder: Path, tree: Callable
) -> None:
    shipped = installed / "dalle_cli" / "pretrained"
    command = ["-c", "from dalle_cli.storage.shipped import shipped_models as s; print(*s())"]
    names = python(*command).stdout.split()
    assert names == sorted(path.parent.name for path in shipped.glob("*/model"))
    assert "toy" in names and tree(shipped / "toy") == tree(shipped_models_folder / "toy")


@pytest.mark.thorough
def test_installed_command_generates_with_a_shipped_model(
    python: Python, installed: Path, tmp_path: Path, tree: Callable
) -> None:
    dalle, shipped = installed / "bin" / "dalle", installed / "dalle_cli" / "pretrained"
    before = tree(shipped)
    listed = python(dalle, "models", "--json")
    assert listed.returncode == 0, listed.stderr
    assert json.loads(listed.stdout)["toy"]["folder"] == str(shipped / "toy")

    ended = python(dalle, "generate", "toy", "-n", 2, "--clip", "toy", "--best", 1)
    assert ended.returncode == 0, ended.stderr
    assert len(list((tmp_path / "samples" / "toy" / "000").glob("0*.png"))) == 2
    assert tree(shipped) == before


@pytest.mark.slow
def test_installed_command_goes_from_nothing_to_pictures(
    python: Python, installed: Path, tmp_path: Path
) -> None:
    commands = [
        ["data", "shapes", "shapes", "--pictures", 8],
        ["train-dvae", "dvae/tiny", "--data", "shapes/train", "--run", "dvae", *TINY],
        ["train-transformer", "transformer/tiny", "--data", "shapes/train", "--dvae", "dvae",
         "--run", "dalle", *TINY],
        ["generate", "dalle", "a red ring", "-n", 1, "--out", "pictures"],
    ]  # fmt: skip
    for words in commands:
        ended = python(installed / "bin" / "dalle", *words)
        assert ended.returncode == 0, ended.stderr

    assert len(list((tmp_path / "pictures").glob("0*.png"))) == 1
