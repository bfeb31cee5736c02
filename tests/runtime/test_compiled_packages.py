"""Packages of compiled steps: found again by another process, and never in place of another."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dalle_cli.runtime import compiled_packages
from dalle_cli.runtime.compilation import ON_CPU, ON_CPU_FEW_ROWS, compile_step, has_compiler
from dalle_cli.runtime.compiled_packages import _fingerprint, _surroundings, load_or_compile

compiles = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_compiler(torch.device("cpu")), reason="no C++ compiler"),
    pytest.mark.filterwarnings("ignore:TypedStorage", "ignore:.*torch.jit:DeprecationWarning"),
]

PRINT_FINGERPRINT = """
import sys
sys.path.insert(0, sys.argv[1])
from test_compiled_packages import Step
from dalle_cli.runtime.compiled_packages import _fingerprint, _surroundings
print(_fingerprint([Step(), _surroundings()]))
"""


class Step(nn.Module):
    """Counts its calls in its last argument, and multiplies."""

    def __init__(self, scale: float = 2.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(16, 16, generator=generator)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = scale
        for name in "zyxw":  # their names are kept in a set
            self.register_buffer(name, torch.zeros(1), persistent=False)

    def forward(self, x: Tensor, state: list[Tensor]) -> Tensor:
        state[0].add_(1)
        return x @ self.weight.T * self.scale


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where packages are stored."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "dalle" / "compiled"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The packages that are compiled rather than loaded."""
    paths: list[Path] = []
    compile_package = compiled_packages.compile_package

    def count(*arguments: Any, path: Path, **options: Any) -> None:
        paths.append(path)
        compile_package(*arguments, path=path, **options)

    monkeypatch.setattr(compiled_packages, "compile_package", count)
    return paths


def run(step: Step, n_rows: int = 8) -> None:
    """Compare a step with one that is compiled, or loaded."""
    x, state = torch.arange(n_rows * 16.0).view(n_rows, 16) / 100, [torch.zeros(2)]
    found = compile_step(step, compiled_batch_size=n_rows)(x, state)
    torch.testing.assert_close(found, step(x, [torch.zeros(2)]))
    assert state[0].tolist() == [1, 1]


@pytest.mark.thorough
def test_another_process_finds_what_one_has_stored() -> None:
    command = [sys.executable, "-c", PRINT_FINGERPRINT, str(Path(__file__).parent)]
    found = {
        subprocess.run(
            command, env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("7", "8")
    }  # fmt: skip
    assert len(found) == 1 and len(found.pop().strip()) == 64


def test_whatever_a_package_depends_on_changes_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _fingerprint([Step(), _surroundings()])
    other_weights = Step()
    other_weights.weight[3, 5] += 1
    assert _fingerprint([Step(), _surroundings()]) == before
    assert _fingerprint([other_weights, _surroundings()]) != before
    assert _fingerprint([Step(scale=3.0), _surroundings()]) != before
    monkeypatch.setattr(torch, "__version__", "another")
    assert _fingerprint([Step(), _surroundings()]) != before
    monkeypatch.undo()
    monkeypatch.setattr(compiled_packages, "_processor", lambda: ["another"])
    assert _fingerprint([Step(), _surroundings()]) != before


def test_steps_that_share_other_modules_have_other_names() -> None:
    first, second = Step(), Step(scale=3.0)
    shared = [nn.ModuleList([first, second, third]) for third in (first, second)]
    assert _fingerprint(shared[0]) != _fingerprint(shared[1])


def test_folder_that_others_may_write_to_is_not_trusted(folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with compiled_packages._private_folder() as found:
        assert found != folder
    folder.chmod(0o700)
    with compiled_packages._private_folder() as found:
        assert found == folder


def test_processes_that_start_together_compile_a_step_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads stand for the processes: the lock is that of a file."""
    compiled: list[Path] = []

    def compile_slowly(*arguments: Any, path: Path, **options: Any) -> None:
        compiled.append(path)
        time.sleep(0.2)
        path.touch()

    monkeypatch.setattr(compiled_packages, "compile_package", compile_slowly)
    monkeypatch.setattr(compiled_packages, "_load", lambda path: path.exists() or None)
    with ThreadPoolExecutor(3) as processes:
        runs = [processes.submit(load_or_compile, Step(), torch.zeros(2), [ON_CPU]) for _ in "abc"]
    assert all(run.result() for run in runs)
    assert compiled == list(folder.glob("*.pt2"))


def test_packages_unused_for_longest_are_removed_with_their_locks(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True)
    packages = [folder / f"{name}.pt2" for name in "abcdef"]
    for i, package in enumerate(packages):
        with compiled_packages._one_at_a_time(folder, package.stem):
            package.touch()
        os.utime(package, (i, i))
    compiled_packages._keep_latest(folder, packages[0])
    assert sorted({path.name.strip(".")[0] for path in folder.iterdir()}) == ["a", "d", "e", "f"]


class TestCompiling:
    pytestmark = compiles

    def test_a_step_is_compiled_once_for_its_weights_and_rows(
        self, folder: Path, compiled: list[Path]
    ) -> None:
        for _ in range(2):
            run(Step())
        assert len(compiled) == 1
        run(Step(scale=3.0))
        run(Step(), n_rows=9)
        assert sorted(set(compiled)) == sorted(folder.glob("*.pt2"))
        assert len(compiled) == 3

    def test_a_damaged_package_is_compiled_anew(self, folder: Path, compiled: list[Path]) -> None:
        run(Step())
        (package,) = folder.glob("*.pt2")
        whole = package.read_bytes()
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        for damaged in (b"", whole[:1_000], whole[:-1_000], flipped):
            package.write_bytes(damaged)
            assert compiled_packages._load(package) is None
        run(Step())
        run(Step())
        assert compiled == [package, package]

    def test_a_product_without_a_template_is_compiled_without_one(self, folder: Path) -> None:
        """A product of batches in bf16 whose first factor is transposed."""

        class Batched(nn.Module):
            def forward(self, x: Tensor, y: Tensor) -> Tensor:
                return x.transpose(0, 1) @ y

        x, y = torch.randn(2, 3, 16).bfloat16(), torch.randn(3, 16, 24).bfloat16()
        found = load_or_compile(Batched(), (x, y), [ON_CPU_FEW_ROWS, ON_CPU])([x, y])[0]
        torch.testing.assert_close(found, Batched()(x, y))
