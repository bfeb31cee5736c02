"""Which lines run on GPUs alone, and which of them tests without a GPU reach.

    .venv/bin/python tests/cuda_lines.py [PATHS OF TESTS]

Lines that run on GPUs alone are the branches taken where a device is "cuda", and all of what only
they call. Those that no test reaches are listed; the exit code is 1 where they are too many.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
CODE = ROOT / "dalle_cli"
SIGNS = ('== "cuda"', "is_cuda", "is_gpu", "_end is not None")  # of a branch for GPUs
OTHERS = ('!= "cuda"', '== "cpu"')  # of a branch for all else
CALLED_THERE_ALONE = {
    "_CUDAGraphStep",
    "_compiled",
    "_gpu_of_rank",
    "grow_segments",
}
ENOUGH = 0.8
TESTS = [
    "tests/test_fake_cuda.py",
    "tests/runtime",
    "tests/training/test_steps_on_fake_cuda.py",
    "tests/training/test_attention_backend.py",
    "tests/generation/test_sampling_on_fake_cuda.py",
    "tests/generation/unclip/test_unclip_on_fake_cuda.py",
]


def cuda_lines(source: str) -> set[int]:
    """Return the numbers of the lines at which statements begin that run on GPUs alone."""
    tree = ast.parse(source)
    return {line for node in ast.walk(tree) for line in _of(node, source)}


def _of(node: ast.AST, source: str) -> Iterator[int]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in CALLED_THERE_ALONE:
        yield from _statements(node.body)
    for body in (getattr(node, "body", None), getattr(node, "orelse", None)):
        for number, statement in enumerate(body if isinstance(body, list) else []):
            if isinstance(statement, ast.If):
                yield from _branch(statement, body[number + 1 :], source)


def _branch(branch: ast.If, after: list[ast.stmt], source: str) -> Iterator[int]:
    """Yield the lines of a branch that are for a GPU, or that an early return leaves to it."""
    test = ast.get_source_segment(source, branch.test) or ""
    if any(sign in test for sign in SIGNS):
        yield from _statements(branch.body)
    if not any(sign in test for sign in OTHERS):
        return
    if branch.orelse:
        yield from _statements(branch.orelse)
    elif isinstance(branch.body[-1], ast.Return):
        yield from _statements(after)


def _statements(body: list[ast.stmt]) -> Iterator[int]:
    for statement in body:
        is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        is_definition = isinstance(statement, ast.FunctionDef | ast.ClassDef)
        if not is_text and not is_definition:
            yield statement.lineno
        for field in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(statement, field, []))


class Reached:
    """Notes which lines of some files are reached, while it is set as the trace function."""

    def __init__(self, files: dict[str, set[int]]) -> None:
        self.lines: dict[str, set[int]] = {name: set() for name in files}

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        lines = self.lines.get(frame.f_code.co_filename)
        if lines is None:
            return None
        lines.add(frame.f_lineno)
        return self


def main(paths: list[str]) -> int:
    wanted = {str(path): cuda_lines(path.read_text()) for path in sorted(CODE.rglob("*.py"))}
    wanted = {name: lines for name, lines in wanted.items() if lines}

    reached = Reached(wanted)
    sys.settrace(reached)
    failed = pytest.main(["-q", "-p", "no:cacheprovider", *(paths or TESTS)])
    sys.settrace(None)

    n_wanted = n_reached = 0
    for name, lines in wanted.items():
        missed = sorted(lines - reached.lines[name])
        n_wanted, n_reached = n_wanted + len(lines), n_reached + len(lines) - len(missed)
        text = Path(name).read_text().splitlines()
        for line in missed:
            print(f"{Path(name).relative_to(ROOT)}:{line}: {text[line - 1].strip()}")
    print(f"{n_reached} of {n_wanted} lines that run on GPUs alone: {n_reached / n_wanted:.0%}")
    return int(bool(failed) or n_reached < ENOUGH * n_wanted)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
